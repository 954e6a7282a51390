"""Small image classifiers: the feature extractors of the shipped zoos' metrics."""

from collections.abc import Sequence

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


class ResNetClassifier(nn.Module):
    """Residual classifier of small photographs: timm's ResNet with a stem of one convolution.

    Args:
        image_shape: (C, H, W) of the images.
        widths: channels of the four stages, at a half to a sixteenth of the images' size; the last
            is the number of features.
        num_classes: number of classes.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 64, 64),
        widths: Sequence[int] = (32, 64, 128, 160),
        num_classes: int = 10,
    ):
        super().__init__()
        # Not at the top: it takes seconds to import, and most commands classify nothing.
        from timm.models.resnet import BasicBlock, ResNet

        self.image_shape = tuple(image_shape)
        self.trunk = ResNet(BasicBlock, [1, 1, 1, 1], num_classes, channels=tuple(widths))
        # The published stem halves the size twice, which leaves little of 64 pixels.
        stem = self.trunk.conv1.out_channels
        self.trunk.conv1 = nn.Conv2d(image_shape[0], stem, 3, stride=2, padding=1, bias=False)
        self.trunk.maxpool = nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) uint8 -> penultimate features (N, widths[-1]) and logits (N, classes).

        In evaluation mode, the features are the mean over the photograph and its mirror image,
        which show the same class.
        """
        x = images.to(self.trunk.fc.weight.dtype) / 127.5 - 1
        features = self._features(x)
        if not self.training:
            features = (features + self._features(x.flip(-1))) / 2
        return features, self.trunk.fc(features)

    def _features(self, x: Tensor) -> Tensor:
        return self.trunk.forward_head(self.trunk.forward_features(x), pre_logits=True)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance of two batches of images, by features of the first three stages.

        At every position the channels are scaled to unit length and compared by their squared
        distance (Zhang et al. 2018, LPIPS, without learned weights).

        Args:
            a, b: (N, C, H, W) in about [-1, 1].

        Returns:
            A scalar: the sum over stages of the mean over positions and images.
        """
        return sum(
            (_unit(x) - _unit(y)).square().sum(1).mean()
            for x, y in zip(self._stages(a), self._stages(b), strict=True)
        )

    def _stages(self, x: Tensor) -> list[Tensor]:
        trunk, stages = self.trunk, []
        x = trunk.act1(trunk.bn1(trunk.conv1(x)))
        for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
            x = stage(x)
            stages.append(x.float())
        return stages


def _unit(x_NCHW: Tensor) -> Tensor:
    return x_NCHW / x_NCHW.norm(dim=1, keepdim=True).clamp(min=1e-4)
