"""The zoos' classifiers as feature extractors: ours and torch-fidelity's numbers are the same."""

import pytest
import torch
import torch_fidelity

from eval import metrics
from eval.features import create_extractor, extract
from models.errors import InputError
from tests import ROOT

CHECKPOINTS = ROOT / "checkpoints"
# Name of an extractor -> its zoo, and the shape of its images.
EXTRACTORS = {
    "fashion-classifier": ("fashion", (1, 28, 28)),
    "imagenette64-classifier": ("imagenette64", (3, 64, 64)),
}


class Images(torch.utils.data.Dataset):
    """Smooth random images, (N, C, H, W) uint8."""

    def __init__(self, seed, contrast, shape):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(200, shape[0], 7, 7, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")
        self.images = (128 + contrast * smooth).clamp(0, 255).to(torch.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.fixture(scope="module", params=EXTRACTORS)
def case(request):
    """Name and weights of an extractor, two sets of images, and their features."""
    zoo, shape = EXTRACTORS[request.param]
    weights = CHECKPOINTS / zoo / "classifier.safetensors"
    sets = Images(0, 60, shape), Images(1, 80, shape)
    extractor = create_extractor(request.param, weights)
    features = [extract(extractor, images.images.split(64)) for images in sets]
    return request.param, weights, sets, features


def test_metrics_equal_those_of_torch_fidelity_on_the_same_images(case):
    name, weights, sets, features = case
    theirs = torch_fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], feature_extractor=name,
        feature_extractor_weights_path=str(weights), fid=True, isc=True, prc=True, isc_splits=1,
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


def test_features_do_not_depend_on_how_the_images_are_batched(case):
    name, weights, sets, features = case
    others = extract(create_extractor(name, weights), sets[0].images.split(7))
    torch.testing.assert_close(others["features"], features[0]["features"], rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_refused(case):
    name, weights, *_ = case
    channels, height, width = EXTRACTORS[name][1]
    wrong = torch.zeros(2, channels, height + 4, width, dtype=torch.uint8)
    with pytest.raises(
        InputError, match=rf"images are {height + 4}x{width}x{channels}, .* reads {height}x{width}"
    ):
        extract(create_extractor(name, weights), [wrong])


def test_unknown_extractor_names_the_known_ones(case):
    with pytest.raises(InputError, match="known: fashion-classifier, imagenette64-classifier"):
        create_extractor("inception", case[1])


def test_colour_is_refused_instead_of_one_channel_being_read():
    extractor = create_extractor(
        "fashion-classifier", CHECKPOINTS / "fashion" / "classifier.safetensors"
    )
    gray = Images(0, 60, (1, 28, 28)).images[:4].expand(-1, 3, -1, -1)
    extract(extractor, [gray])
    colour = gray.clone()
    colour[3, 1, 5, 5] += 1
    with pytest.raises(InputError, match="images are in colour, .*fashion-classifier reads grey"):
        extract(extractor, [colour])
