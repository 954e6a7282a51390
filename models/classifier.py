"""A small image classifier: the feature extractor of the fashion zoo's metrics."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """Convolutional classifier of grey images.

    Args:
        image_shape: (C, H, W) of the images.
        widths: channels of the three stages; the last is the number of features.
        num_classes: number of classes.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        widths: tuple[int, int, int] = (32, 64, 128),
        num_classes: int = 10,
    ):
        super().__init__()
        first, second, third = widths
        self.image_shape = tuple(image_shape)
        self.trunk = nn.Sequential(
            *_convolution(image_shape[0], first),
            *_convolution(first, first),
            nn.MaxPool2d(2),
            *_convolution(first, second),
            *_convolution(second, second),
            nn.MaxPool2d(2),
            *_convolution(second, third),
            *_convolution(third, third),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(third, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) uint8 -> penultimate features (N, widths[-1]) and logits (N, classes)."""
        features = self.trunk(images.to(self.head.weight.dtype) / 127.5 - 1)
        return features, self.head(features)


def _convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]
