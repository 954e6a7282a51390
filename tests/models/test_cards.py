"""Zoo cards of published weights: facts, pair validation, and loading of synthetic files."""

import dataclasses
import json

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import models
from models import CheckpointError, cards
from models.errors import InputError
from models.files import sha256_of
from models.published_file import PublishedFile
from models.spec import DenoiserSpec, check_stitchable
from models.weights import record_path
from models.zoo import CARDS, names
from tests import golden

IMAGENET = ["imagenet256-dit", "imagenet256-ldm", "imagenet256-dit-uvit"]


def card(name, changes):
    """A card with changes by dotted key."""
    card = OmegaConf.load(CARDS / f"{name}.yaml")
    for key, value in changes.items():
        OmegaConf.update(card, key, value)
    return card


def test_every_card_is_known_and_as_it_was_published():
    """Else runs that were recorded would not be found; what is new gets a line of its own."""
    assert names() == sorted(["fashion", "imagenette64", *IMAGENET])
    here = {name: cards.hashes(OmegaConf.load(CARDS / f"{name}.yaml")) for name in names()}
    assert json.loads(cards.PUBLISHED.read_text()) == here


@pytest.mark.parametrize("name", IMAGENET)
def test_a_card_states_what_is_needed_to_sample_and_to_download(name):
    zoo = models.load_zoo(name)
    assert zoo.image_shape == (3, 256, 256)
    assert {spec.latent_shape for spec in zoo.specs.values()} == {(4, 32, 32)}
    null = None if zoo.unconditional == "random-embedding" else 1000
    assert {spec.null_label for spec in zoo.specs.values()} == {null}
    costs = [zoo.macs(denoiser) for denoiser in zoo.denoisers]
    assert costs == sorted(costs)
    assert zoo.card.published.protocol and set(zoo.card.published.fid) == set(zoo.denoisers)
    for file in zoo.files.values():
        assert file.urls and file.licence
        assert all(url.startswith("https://") for url in file.urls)
        assert file.path.is_relative_to((CARDS.parent.parent / "checkpoints").resolve())
        assert file.sha256 is None or len(file.sha256) == 64
    for network in [*zoo.denoisers, "first-stage"]:
        assert zoo.file(network) in zoo.files.values()


def test_the_unconditional_embedding_and_the_schedule_are_those_of_the_family():
    ldm = models.load_zoo("imagenet256-ldm")
    assert ldm.unconditional == "random-embedding"
    assert {spec.null_label for spec in ldm.specs.values()} == {None}
    assert not ldm.file("LDM").ema  # the paper's FIDs are of raw weights
    mixed = models.load_zoo("imagenet256-dit-uvit")
    schedules = [spec.schedule for spec in mixed.specs.values()]
    assert schedules == ["ddpm-linear", "stable-diffusion"]


def test_weights_behind_links_as_in_a_hubs_cache_are_checked_by_the_links_record(tmp_path):
    shipped = CARDS.parent.parent / "checkpoints" / "fashion"
    (tmp_path / "zoo").mkdir()
    for name in ("DiT-S.safetensors", "DiT-S.json"):
        blob = tmp_path / f"blob-{name.removeprefix('DiT-S.')[:4]}"
        blob.write_bytes((shipped / name).read_bytes())
        (tmp_path / "zoo" / name).symlink_to(blob)
    zoo = models.Zoo(card("fashion", {"checkpoints": str(tmp_path / "zoo")}))
    assert zoo.checkpoint("DiT-S").name == "DiT-S.safetensors"
    assert sum(p.numel() for p in zoo.denoisers["DiT-S"].parameters()) > 0
    blob = tmp_path / "blob-safe"
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x00")
    zoo = models.Zoo(card("fashion", {"checkpoints": str(tmp_path / "zoo")}))
    with pytest.raises(CheckpointError, match="DiT-S.safetensors is damaged .*DiT-S.json says"):
        zoo.denoisers["DiT-S"]


def test_fashion_is_shipped_and_needs_no_files():
    zoo = models.load_zoo("fashion")
    assert zoo.files == {}
    assert zoo.file("DiT-S").path.name == "DiT-S.safetensors"
    assert zoo.macs("DiT-S") < zoo.macs("DiT-XL")


# ---- pairs ----

SPEC = DenoiserSpec((4, 32, 32), 1000, 1000, latent_space="sd-vae")


def test_denoisers_of_other_schedules_can_be_stitched():
    others = dict(schedule="stable-diffusion", prediction_type="v", null_label=None)
    check_stitchable({"A": SPEC, "B": dataclasses.replace(SPEC, **others)})


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(latent_shape=(3, 64, 64)), r"latent_shape is \(4, 32, 32\) and \(3, 64, 64\)"),
        (dict(latent_space="vq-f8"), "latent_space is sd-vae and vq-f8"),
        (dict(num_classes=10), "num_classes is 1000 and 10"),
        (dict(prediction_type="score"), "B predicts 'score', which cannot be converted"),
    ],
)
def test_a_pair_that_cannot_be_stitched_is_named_with_what_differs(change, message):
    with pytest.raises(InputError, match=message) as error:
        check_stitchable({"A": SPEC, "B": dataclasses.replace(SPEC, **change)})
    assert "B" in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"denoisers.LDM": {"name": "LDM"}},
            "DiT-S and LDM cannot be stitched: latent_space is sd-vae and vq-f8; take denoisers",
        ),
        ({"denoisers.DiT-B.num_classes": 10}, "DiT-S and DiT-B .* num_classes is 1000 and 10"),
        (
            {"first_stage.name": "vq-f8"},
            "zoo imagenet256-dit: DiT-S was trained with first_stage sd-vae, the zoo has vq-f8",
        ),
        ({"prediction_type": "sample"}, "trained with prediction_type epsilon, the zoo has sample"),
        (
            {"first_stage.scale": 0.13025},
            "DiT-S was trained with latent scale 0.18215, the zoo has 0.13025",
        ),
        ({"latent_shape": [4, 64, 64]}, "DiT-S was trained with latent_shape"),
    ],
)
def test_a_card_that_mixes_what_does_not_fit_is_refused_before_anything_loads(change, message):
    with pytest.raises(InputError, match=message):
        models.Zoo(card("imagenet256-dit", change))


# ---- files ----


def test_missing_weights_come_with_the_command_the_url_and_the_path(tmp_path):
    zoo = models.Zoo(card("imagenet256-dit", {"checkpoints": str(tmp_path)}))
    for ask in (lambda: zoo.denoisers["DiT-XL"], lambda: zoo.weights_sha256(["DiT-XL"])):
        with pytest.raises(CheckpointError) as error:
            ask()
        for part in (
            "weights of DiT-XL are missing",
            "python -m scripts.download zoo=imagenet256-dit",
            "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt",
            str(tmp_path / "DiT-XL-2-256x256.pt"),
        ):
            assert part in str(error.value)


def test_a_file_put_there_by_hand_is_held_to_the_published_checksum(tmp_path):
    weights = card("imagenet256-dit", {"checkpoints": str(tmp_path)})
    zoo = models.Zoo(weights, decoder="preview")
    path = zoo.checkpoint("preview")
    path.parent.mkdir()
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not the published file of preview: its SHA-256"):
        zoo.first_stage  # noqa: B018
    with pytest.raises(CheckpointError, match="python -m scripts.download zoo=imagenet256-dit"):
        zoo.first_stage  # noqa: B018


def test_a_network_whose_file_the_card_lacks_is_named(tmp_path):
    zoo = models.Zoo(card("imagenet256-dit", {"first_stage.file": "sd-vae-ft-xyz"}))
    with pytest.raises(InputError, match="no file 'sd-vae-ft-xyz' for first-stage; known: DiT-S"):
        zoo.checkpoint("first-stage")


def test_the_state_of_a_file_follows_its_checksum(tmp_path):
    path = tmp_path / "weights.pt"
    file = PublishedFile("x", path, ("https://example.org",))
    assert file.state() == "missing"
    path.write_bytes(b"abc")
    assert file.state() == "unverified"
    record_path(path).write_text(json.dumps({"sha256": sha256_of(path)}))
    assert file.state() == "present"
    path.write_bytes(b"abd")
    assert file.state() == "bad checksum"
    assert dataclasses.replace(file, sha256=sha256_of(path)).state() == "present"


TINY_DIT = dict(width=32, depth=1, num_heads=2)
TINY_STAGE = dict(
    block_out_channels=[32, 32, 32, 32], layers_per_block=1, latent_channels=4
)  # fmt: skip


@torch.no_grad()
def test_official_files_of_a_zoo_load_as_they_are_published(tmp_path):
    """Raw and averaged weights, a plain state dict, and a first stage of diffusers."""
    tiny = card("imagenet256-dit-uvit", {"checkpoints": str(tmp_path)})
    tiny.denoisers["DiT-S"].update(TINY_DIT)
    tiny.denoisers["U-ViT-H"].update({**TINY_DIT, "depth": 2})
    tiny.first_stage.update(TINY_STAGE)
    tiny.files["sd-vae-ft-ema"].sha256 = None
    sources = {}
    for name in ("DiT-S", "U-ViT-H", "first-stage"):
        entry = tiny.first_stage if name == "first-stage" else tiny.denoisers[name]
        sizes = {key: value for key, value in entry.items() if key != "file"}
        sources[name] = models.create(**OmegaConf.to_container(OmegaConf.create(sizes)))
        golden.fill(sources[name])
    averaged = sources["DiT-S"].state_dict()
    raw = {key: value + 1 for key, value in averaged.items()}
    torch.save({"model": raw, "ema": averaged, "opt": {}}, tmp_path / "dit_s_256.pt")
    torch.save(sources["U-ViT-H"].state_dict(), tmp_path / "imagenet256_uvit_huge.pth")
    (tmp_path / "sd-vae-ft-ema").mkdir()
    vae = tmp_path / "sd-vae-ft-ema" / "diffusion_pytorch_model.safetensors"
    save_file(sources["first-stage"].autoencoder.state_dict(), vae)

    zoo = models.Zoo(tiny)
    for name, source in sources.items():
        network = zoo.first_stage if name == "first-stage" else zoo.denoisers[name]
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        state = network.state_dict()
        assert state.keys() == source.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in source.state_dict().items())
    images = zoo.first_stage.decode(torch.randn(1, 4, 32, 32))
    assert images.shape == (1, 3, 256, 256) and images.dtype == torch.uint8
