"""The classifier as a feature extractor: ours and torch-fidelity's numbers are the same."""

from pathlib import Path

import pytest
import torch
import torch_fidelity

from eval import metrics
from eval.features import create_extractor, extract

WEIGHTS = Path(__file__).parent.parent / "checkpoints" / "fashion" / "classifier.safetensors"


class Images(torch.utils.data.Dataset):
    """Smooth random images, (N, 1, 28, 28) uint8."""

    def __init__(self, seed, contrast):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(200, 1, 7, 7, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=28, mode="bilinear")
        self.images = (128 + contrast * smooth).clamp(0, 255).to(torch.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.fixture(scope="module")
def sets():
    return Images(0, 60), Images(1, 80)


@pytest.fixture(scope="module")
def features(sets):
    extractor = create_extractor("fashion-classifier", WEIGHTS)
    return [extract(extractor, images.images.split(64)) for images in sets]


def test_metrics_equal_those_of_torch_fidelity_on_the_same_images(sets, features):
    theirs = torch_fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], feature_extractor="fashion-classifier",
        feature_extractor_weights_path=str(WEIGHTS), fid=True, isc=True, prc=True, isc_splits=1,
        samples_shuffle=False, cuda=False, verbose=False, cache=False,
    )  # fmt: skip
    sample, reference = (found["features"] for found in features)
    probabilities = features[0]["logits"].double().softmax(1)
    precision, recall = metrics.precision_recall(sample, reference)
    fid = metrics.frechet_distance(sample, reference)
    assert fid == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    score = metrics.inception_score(probabilities)
    assert score == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert precision == pytest.approx(theirs["precision"])
    assert recall == pytest.approx(theirs["recall"])


def test_features_do_not_depend_on_how_the_images_are_batched(sets, features):
    extractor = create_extractor("fashion-classifier", WEIGHTS)
    others = extract(extractor, sets[0].images.split(7))
    torch.testing.assert_close(others["features"], features[0]["features"], rtol=1e-4, atol=1e-5)


def test_unknown_extractor_names_the_known_one():
    with pytest.raises(ValueError, match="known: fashion-classifier"):
        create_extractor("inception", WEIGHTS)
