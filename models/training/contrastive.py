"""What a text encoder learns: to agree with features of the images that its captions are of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE = 10.0  # of cosines, the inverse temperature


class ContrastiveObjective(nn.Module):
    """The contrastive loss of captions and image features, in both directions.

    As CLIP's (Radford et al. 2021), but all pairs of a batch with one meaning are positives (Yang
    et al. 2022, UniCL, arXiv 2204.03610): there are fewer classes than images in a batch. With
    several processes, each contrasts its own part of the batch.

    An objective as ``models.training.objectives`` describes them.

    Args:
        network: a ``TextEncoder``.
        features: (N, D) of the images, of unit length.
        captions: (N,) int64, the row of each image's caption in ``tokens``.
        tokens: (captions, L) int64, of all captions.
        meanings: (captions,) int64; captions of one meaning say the same.
    """

    def __init__(
        self, network: nn.Module, features: Tensor, captions: Tensor, tokens: Tensor, meanings
    ):
        super().__init__()
        self.network, self.features, self.captions = network, features, captions
        self.tokens, self.meanings = tokens, meanings
        self.count = len(captions)

    def batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        captions = self.captions[indices]
        return self.features[indices], self.tokens[captions], self.meanings[captions]

    def forward(self, features: Tensor, tokens: Tensor, meanings: Tensor) -> dict[str, Tensor]:
        logits = SCALE * F.normalize(self.network(tokens).float()) @ features.T
        same = (meanings[:, None] == meanings).float()
        positives = same / same.sum(1, keepdim=True)
        loss = F.cross_entropy(logits, positives) + F.cross_entropy(logits.T, positives)
        return {"loss": loss / 2}

    @torch.no_grad()
    def evaluate(self, network: nn.Module, test: "ContrastiveObjective") -> dict[str, float]:
        """The share of the test images whose nearest caption means what their own means."""
        texts = F.normalize(network(test.tokens).float())
        of_an_image = torch.isin(test.meanings, test.meanings[test.captions].unique())
        cosines = torch.where(of_an_image, test.features @ texts.T, -2)
        right = test.meanings[cosines.argmax(1)] == test.meanings[test.captions]
        return {"test_accuracy": right.float().mean().item()}


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) of features (N, D) and their ``count`` principal axes (D, count)."""
    mean = features.mean(0)
    _, vectors = torch.linalg.eigh((features - mean).T.double().cov())
    return mean, vectors[:, -count:].to(features)
