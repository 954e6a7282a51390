"""Published layouts of weights: what diffusers and CompVis call things, and back."""

import json

import pytest
import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from safetensors.torch import save_file

import models
from models import CheckpointError
from models.adapters import dit_from_diffusers, dit_to_diffusers
from models.checkpoint import read_tensors
from models.errors import InputError
from models.first_stage import CONFIGURATIONS, to_uint8
from models.quantise import quantise
from models.weights import save_checkpoint
from tests import golden

SMALL = dict(latent_shape=(4, 8, 8), width=32, depth=2, num_heads=2, num_classes=5)


@pytest.fixture
def network():
    network = models.create("DiT", **SMALL).eval()
    golden.fill(network)
    return network


def assert_same(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


def arguments(network, batch=2):
    shape = network.spec.latent_shape
    x = torch.from_numpy(golden.normal("input:diffusers:x", (batch, *shape)))
    return x, torch.tensor([999, 40][:batch]), torch.tensor([1, network.spec.null_label][:batch])


# ---- DiT ----


def test_dit_goes_to_diffusers_and_back_unchanged(network, tmp_path):
    models.save_diffusers(network, tmp_path / "dit", {"source": "test"})
    again = models.create("DiT", **SMALL)
    models.load_checkpoint(again, tmp_path / "dit")
    assert_same(again.state_dict(), network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dit_that_was_stored_in_half_precision_goes_to_diffusers(network, tmp_path, dtype):
    save_checkpoint(network, tmp_path / "dit.safetensors", {})
    network.to(dtype)
    models.load_checkpoint(network, tmp_path / "dit.safetensors")
    models.save_diffusers(network, tmp_path / "dit", {})
    again = models.create("DiT", **SMALL).to(dtype)
    models.load_checkpoint(again, tmp_path / "dit")
    table = network.position_table().to(dtype)
    assert_same(again.state_dict(), {**network.state_dict(), "pos_embed": table})


@torch.no_grad()
def test_diffusers_loads_what_is_saved_and_computes_the_same(network, tmp_path):
    models.save_diffusers(network, tmp_path, {})
    foreign = DiTTransformer2DModel.from_pretrained(tmp_path, low_cpu_mem_usage=False).eval()
    # Their class spreads the timestep frequencies over one interval less.
    native = models.create("DiT", **SMALL, frequency_shift=1).eval()
    models.load_checkpoint(native, tmp_path)
    x, t, y = arguments(native)
    expected = foreign(x, t, y).sample
    # t = 999 times frequencies that are rounded in another order: 6e-5 in the angle.
    assert (native(x, t, y) - expected).abs().max() < 5e-5
    # With the frequencies of the published weights it is another function.
    assert (network(x, t, y) - expected).abs().max() > 1e-3
    for block in foreign.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    assert (network(x, t, y) - foreign(x, t, y).sample).abs().max() < 5e-5


@torch.no_grad()
def test_dit_xl_equals_diffusers_class():
    with torch.device("meta"):
        foreign = DiTTransformer2DModel(out_channels=8, norm_eps=1e-6).eval()
        native = models.create("DiT-XL/2", frequency_shift=1).eval()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty(value.shape).normal_(0, 0.02, generator=generator)
        for name, value in native.state_dict().items()
    }
    state["pos_embed"] = native.position_table()
    foreign_state = dit_to_diffusers(state, 28)
    # The same function of the same memory: the two networks share their weights.
    native.load_state_dict(state, assign=True)
    foreign.load_state_dict(foreign_state, assign=True)
    table = foreign.pos_embed
    table.pos_embed = native.pos_embed.data  # was on the meta device
    x, t, y = arguments(native, batch=1)
    output = native(x, t, y)
    assert output.abs().mean() > 0.01
    assert (output - foreign(x, t, y).sample).abs().max() < 5e-5


def test_blocks_with_embeddings_of_their_own_are_refused(network, tmp_path):
    models.save_diffusers(network, tmp_path, {})
    state = read_tensors(tmp_path)
    state["transformer_blocks.1.norm1.emb.class_embedder.embedding_table.weight"][0] += 1
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="blocks differ in class_embedder"):
        models.load_checkpoint(network, tmp_path / "other.safetensors")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_diffusers_names_load_with_their_position_table_and_under_a_prefix(
    network, tmp_path, prefix
):
    table = {"pos_embed.pos_embed": network.position_table()}
    state = {**table, **dit_to_diffusers(network.state_dict(), 2)}
    save_file({prefix + name: value for name, value in state.items()}, tmp_path / "a.safetensors")
    again = models.create("DiT", **SMALL)
    models.load_checkpoint(again, tmp_path / "a.safetensors")
    assert_same(again.state_dict(), network.state_dict())


def test_a_layout_with_missing_and_strange_entries_names_them(network):
    state = dit_to_diffusers(network.state_dict(), 2)
    del state["transformer_blocks.0.attn1.to_k.bias"], state["proj_out_1.weight"]
    native = dit_from_diffusers({**state, "lora.weight": torch.zeros(1)}, 2)
    missing = network.state_dict().keys() - native.keys()
    assert missing == {
        "pos_embed", "blocks.0.attn.qkv.bias", "final_layer.adaLN_modulation.1.weight",
    }  # fmt: skip
    assert "lora.weight" in native


@pytest.mark.parametrize(
    "sizes, change, message",
    [
        ({"latent_shape": (4, 8, 6)}, lambda network: None, "square latents"),
        ({"mlp_ratio": 3}, lambda network: None, "mlp_ratio of 4, not 3"),
        ({}, lambda network: network.pos_embed.data.add_(1), "position table"),
        ({}, lambda network: quantise(network, "int8"), "save it before it is quantised"),
    ],
)
def test_what_diffusers_cannot_express_is_not_saved(tmp_path, sizes, change, message):
    network = models.create("DiT", **{**SMALL, **sizes})
    change(network)
    with pytest.raises(InputError, match=message):
        models.save_diffusers(network, tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_without_weights_is_named(network, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="holds no weights"):
        models.load_checkpoint(network, tmp_path)


# ---- autoencoders: an independent forward in CompVis' names ----


class CompVis:
    """Encoder and decoder of latent-diffusion, written from its checkpoint's names only."""

    def __init__(self, state):
        self.state = state

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def norm(self, name, x):
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def res(self, name, x):
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        shortcut = f"{name}.nin_shortcut"
        return h + (self.conv(shortcut, x) if f"{shortcut}.weight" in self.state else x)

    def attention(self, name, x):
        h = self.norm(f"{name}.norm", x)
        q, k, v = (self.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        weights = (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(dim=2)
        return x + self.conv(f"{name}.proj_out", (v @ weights.transpose(1, 2)).view_as(x))

    def middle(self, side, x):
        x = self.attention(f"{side}.mid.attn_1", self.res(f"{side}.mid.block_1", x))
        return self.res(f"{side}.mid.block_2", x)

    def level(self, name, x):
        for i in range(10):
            if f"{name}.block.{i}.conv1.weight" in self.state:
                x = self.res(f"{name}.block.{i}", x)
            if f"{name}.attn.{i}.q.weight" in self.state:
                x = self.attention(f"{name}.attn.{i}", x)
        return x

    def end(self, side, x):
        return self.conv(f"{side}.conv_out", F.silu(self.norm(f"{side}.norm_out", x)), padding=1)

    def encode(self, images, levels):
        x = self.conv("encoder.conv_in", images, padding=1)
        for i in range(levels):
            x = self.level(f"encoder.down.{i}", x)
            if i < levels - 1:
                x = F.pad(x, (0, 1, 0, 1))
                x = self.conv(f"encoder.down.{i}.downsample.conv", x, stride=2)
        return self.conv("quant_conv", self.end("encoder", self.middle("encoder", x)))

    def quantise(self, z):
        codes = self.state["quantize.embedding.weight"]
        flat = z.permute(0, 2, 3, 1)
        nearest = (flat[..., None, :] - codes).square().sum(-1).argmin(-1)
        return codes[nearest].permute(0, 3, 1, 2)

    def decode(self, z, levels):
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1)
        x = self.middle("decoder", x)
        for i in reversed(range(levels)):
            x = self.level(f"decoder.up.{i}", x)
            if i > 0:
                x = F.interpolate(x, scale_factor=2.0)
                x = self.conv(f"decoder.up.{i}.upsample.conv", x, padding=1)
        return self.end("decoder", x)


def compvis_state(widths, attention, embed, double, codes=None):
    """Names and shapes of a CompVis autoencoder, with one residual block a level down, two up."""
    shapes = {}

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def res(name, a, b):
        layer(f"{name}.norm1", a), layer(f"{name}.conv1", b, a, 3, 3)
        layer(f"{name}.norm2", b), layer(f"{name}.conv2", b, b, 3, 3)
        if a != b:
            layer(f"{name}.nin_shortcut", b, a, 1, 1)

    def attn(name, a):
        layer(f"{name}.norm", a)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.{part}", a, a, 1, 1)

    last, top = len(widths) - 1, widths[-1]
    layer("encoder.conv_in", widths[0], 3, 3, 3)
    layer("decoder.conv_in", top, embed, 3, 3)
    for side in ("encoder", "decoder"):
        res(f"{side}.mid.block_1", top, top), res(f"{side}.mid.block_2", top, top)
        attn(f"{side}.mid.attn_1", top)
    down, up = widths[0], top
    for i, width in enumerate(widths):
        res(f"encoder.down.{i}.block.0", down, width)
        down = width
        if i < last:
            layer(f"encoder.down.{i}.downsample.conv", width, width, 3, 3)
    for i, width in reversed(list(enumerate(widths))):
        res(f"decoder.up.{i}.block.0", up, width), res(f"decoder.up.{i}.block.1", width, width)
        up = width
        if i > 0:
            layer(f"decoder.up.{i}.upsample.conv", width, width, 3, 3)
    if attention:
        attn(f"encoder.down.{last}.attn.0", top)
        attn(f"decoder.up.{last}.attn.0", top), attn(f"decoder.up.{last}.attn.1", top)
    layer("encoder.norm_out", top), layer("decoder.norm_out", widths[0])
    layer("encoder.conv_out", (1 + double) * embed, top, 3, 3)
    layer("decoder.conv_out", 3, widths[0], 3, 3)
    layer("quant_conv", (1 + double) * embed, (1 + double) * embed, 1, 1)
    layer("post_quant_conv", embed, embed, 1, 1)
    if codes:
        shapes["quantize.embedding.weight"] = (codes, embed)
    return {name: torch.from_numpy(golden.entry(name, shape)) for name, shape in shapes.items()}


def blocks(kind, attention):
    plain = [f"{kind}coderBlock2D".replace("Down", "DownEn").replace("Up", "UpDe")] * 2
    return [*plain, ("Attn" if attention else "") + plain[0]]


def autoencoder(architecture, attention, **sizes):
    up = blocks("Up", attention)[::-1]
    return models.create(
        architecture, scale=0.5, down_block_types=blocks("Down", attention), up_block_types=up,
        block_out_channels=(32, 32, 64), layers_per_block=1, latent_channels=4, **sizes,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("attention", [True, False])  # vq-f8 has it at its lowest level
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vq_checkpoint_of_compvis_reconstructs_as_an_independent_forward(
    tmp_path, attention, prefix
):
    state = compvis_state((32, 32, 64), attention, 4, double=False, codes=50)
    content = {f"{prefix}{name}": value for name, value in state.items()}
    content["loss.discriminator.main.0.weight"] = torch.zeros(3)
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "model.ckpt")
    stage = autoencoder("first-stage-vq", attention, num_vq_embeddings=50, rounding="down")
    models.load_checkpoint(stage, tmp_path / "model.ckpt")
    images = (torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 255).byte()
    reference = CompVis(state)
    z = reference.encode(images / 127.5 - 1, 3)
    latents = stage.encode(images)
    assert latents.shape == (2, 4, 4, 6) == (2, *stage.latent_shape((3, 16, 24)))
    assert (latents - 0.5 * z).abs().max() < 5e-5
    expected = reference.decode(reference.quantise(z), 3)
    decoded = stage.autoencoder.decode(latents / 0.5).sample
    assert (decoded - expected).abs().max() < 5e-5
    down = (255 * ((expected + 1) / 2).clamp(0, 1)).floor()
    assert (stage.decode(latents).float() - down).abs().max() <= 1  # a value at the edge of a bin


@torch.no_grad()
def test_a_kl_checkpoint_of_compvis_reconstructs_as_an_independent_forward(tmp_path):
    state = compvis_state((32, 32, 64), False, 4, double=True)
    torch.save({"state_dict": state}, tmp_path / "model.ckpt")
    stage = autoencoder("first-stage-kl", False)
    models.load_checkpoint(stage, tmp_path / "model.ckpt")
    images = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255).byte()
    reference = CompVis(state)
    mean, log_variance = reference.encode(images / 127.5 - 1, 3).chunk(2, dim=1)
    assert (stage.encode(images) - 0.5 * mean).abs().max() < 5e-5
    noise = torch.randn(2, 4, 4, 4)
    drawn = mean + (log_variance / 2).exp() * noise
    assert (stage.encode(images, noise) - 0.5 * drawn).abs().max() < 5e-5
    decoded = stage.autoencoder.decode(mean).sample
    assert (decoded - reference.decode(mean, 3)).abs().max() < 5e-5


def test_the_old_attention_names_of_diffusers_are_known(tmp_path):
    stage = autoencoder("first-stage-kl", False)
    old = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    state = {}
    for name, value in stage.autoencoder.state_dict().items():
        for new, former in old.items():
            if ".attentions." in name:
                name = name.replace(new, former)
        state[name] = value
    assert any("proj_attn" in name for name in state)
    save_file(state, tmp_path / "vae.safetensors")
    again = autoencoder("first-stage-kl", False)
    models.load_checkpoint(again, tmp_path / "vae.safetensors")
    assert_same(again.state_dict(), stage.state_dict())


@torch.no_grad()
def test_the_tiny_autoencoder_previews_latents_of_the_same_shape(tmp_path):
    preview = models.create("taesd")
    save_file(preview.autoencoder.state_dict(), tmp_path / "taesd.safetensors")
    again = models.create("taesd")
    models.load_checkpoint(again, tmp_path / "taesd.safetensors")
    assert_same(again.state_dict(), preview.state_dict())
    images = preview.decode(torch.randn(1, 4, 4, 4))
    assert images.shape == (1, 3, 32, 32) and images.dtype == torch.uint8
    assert preview.encode(images).shape == (1, 4, 4, 4) == (1, *preview.latent_shape((3, 32, 32)))


@pytest.mark.parametrize(
    "name, latents, parameters",
    [
        ("sd-vae", (4, 32, 32), 83_653_863),
        ("vq-f8", (4, 32, 32), None),
        ("vq-f4", (3, 64, 64), None),
        ("taesd", (4, 32, 32), 2_445_063),
    ],
)
def test_the_published_first_stages_have_their_sizes(name, latents, parameters):
    assert name in CONFIGURATIONS
    with torch.device("meta"):
        stage = models.create(name)
    assert stage.latent_shape((3, 256, 256)) == latents
    if parameters:
        assert sum(p.numel() for p in stage.parameters()) == parameters


def test_rounding_is_that_of_each_family():
    # x = 2 v / 255 - 1 for v = 0.4, 0.6, 254.6
    images = 2 * torch.tensor([-9.0, 0.4, 0.6, 254.6, 300.0]) / 255 - 1
    assert to_uint8(images).tolist() == [0, 0, 1, 255, 255]
    assert to_uint8(images, "down").tolist() == [0, 0, 0, 254, 255]
    with pytest.raises(InputError, match="rounding 'up' is unknown; known: nearest, down"):
        models.create("taesd", rounding="up")
