"""Checkpoints: what goes in comes out, and nothing else gets in."""

import argparse
import collections
import errno
import json
import os
import pickle
import tempfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import CheckpointError, load_checkpoint
from models.checkpoint import read_tensors
from models.errors import InputError
from models.files import check_writable, create_exclusively, sha256_of, write_atomically
from models.weights import record_path, recorded_sha256, save_checkpoint, save_tensors


def network(width=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def values(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "weights" / "net.safetensors"
    save_checkpoint(network(), path, {"recipe": "tiny", "seed": 0})
    return path


def test_a_saved_network_comes_back_rounded_to_half_precision(saved):
    target = network(seed=1)
    load_checkpoint(target, saved)
    rounded = {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in network().state_dict().items()
    }
    assert_equal(values(target), rounded)
    assert all(p.dtype == torch.float32 for p in target.parameters())


@pytest.mark.parametrize("value", [1e5, float("nan")])
def test_values_beyond_half_precision_do_not_replace_good_weights(saved, value):
    before = saved.read_bytes(), record_path(saved).read_bytes()
    module = network()
    module[1].running_var[2] = value
    with pytest.raises(InputError, match="net.safetensors is not written: 1.running_var has 1 val"):
        save_checkpoint(module, saved, {})
    assert (saved.read_bytes(), record_path(saved).read_bytes()) == before


def test_a_provenance_record_lies_beside_the_weights(saved):
    record = json.loads(record_path(saved).read_text())
    assert record == {
        "file": "net.safetensors", "sha256": sha256_of(saved), "recipe": "tiny", "seed": 0,
    }  # fmt: skip


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {
        "double": torch.randn(2, 3, dtype=torch.float64),
        "transposed": torch.arange(6).view(2, 3).T,
        "half": torch.ones((), dtype=torch.float16),
    }
    save_tensors(tensors, tmp_path / "t.safetensors", {})
    found = read_tensors(tmp_path / "t.safetensors")
    assert_equal(found, tensors)
    assert {name: t.dtype for name, t in found.items()} == {n: t.dtype for n, t in tensors.items()}


def refuse(path, message):
    target = network(seed=1)
    before = values(target)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(target, path)
    assert str(path) in str(error.value)
    assert_equal(values(target), before)
    return str(error.value)


def test_a_missing_file_is_named(tmp_path):
    refuse(tmp_path / "none.safetensors", "does not exist")


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_flipped_byte_fails_the_checksum(saved, position):
    data = bytearray(saved.read_bytes())
    data[position] ^= 1
    saved.write_bytes(data)
    refuse(saved, r"damaged or was changed: its SHA-256 is .* net.json says .*; restore the file")


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_truncated_file_is_refused_with_or_without_a_record(saved, keep, recorded):
    saved.write_bytes(saved.read_bytes()[:keep])
    if not recorded:
        record_path(saved).unlink()
    refuse(saved, "damaged or was changed" if recorded else "cannot be read")


def test_another_architecture_is_refused_with_the_first_entries_that_differ(tmp_path):
    path = tmp_path / "wide.safetensors"
    save_checkpoint(network(width=6), path, {})
    message = refuse(path, "another architecture, 7 entries differ")
    assert "0.weight is (6, 3), the network has (4, 3)" in message
    assert message.endswith("; ...") and message.count("the network has") == 5


def test_entries_too_many_and_too_few_are_named(tmp_path):
    state = network().state_dict()
    state["extra"] = state.pop("2.bias")
    save_tensors(state, tmp_path / "net.safetensors", {})
    message = refuse(tmp_path / "net.safetensors", "2 entries differ")
    assert message.endswith("2.bias is missing; extra is not in the network")


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_an_entry_that_is_no_floating_point_weight_is_refused(tmp_path, dtype, device):
    state = network().state_dict()
    state["2.weight"] = state["2.weight"].to(dtype)
    save_tensors(state, tmp_path / "net.safetensors", {})
    with torch.device(device):
        target = network(seed=1)
    with pytest.raises(CheckpointError, match=f"2.weight is {dtype}, the network has torch.float"):
        load_checkpoint(target, tmp_path / "net.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt"])
@pytest.mark.parametrize("key", [None, "ema"])
def test_a_pickled_state_dict_loads_plain_or_under_ema(tmp_path, suffix, key):
    state = network().state_dict()
    wrapped = {"model": network(seed=2).state_dict(), key: state} if key else state
    torch.save(wrapped, tmp_path / f"net{suffix}")
    target = network(seed=1)
    load_checkpoint(target, tmp_path / f"net{suffix}")
    assert_equal(values(target), state)


def test_a_checkpoint_of_dits_training_script_loads(tmp_path):
    module = network()
    checkpoint = {
        "model": network(seed=2).state_dict(),
        "ema": module.state_dict(),
        "opt": torch.optim.AdamW(module.parameters()).state_dict(),
        "args": argparse.Namespace(model="DiT-XL/2", image_size=256),
    }
    torch.save(checkpoint, tmp_path / "0050000.pt")
    target = network(seed=1)
    load_checkpoint(target, tmp_path / "0050000.pt")
    assert_equal(values(target), module.state_dict())


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"ema": None}, torch.zeros(2)])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    refuse(tmp_path / "net.pt", "not a state dict")


class Malice:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, write):
    path, target = tmp_path / "net.pt", tmp_path / "executed"
    write({**network().state_dict(), "x": Malice(target)}, path)
    refuse(path, "refused|cannot be read")
    assert not target.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert target.exists()  # it was able to do harm


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_truncated_pickle_is_refused(tmp_path, keep):
    path = tmp_path / "net.pt"
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    refuse(path, "cannot be read|refused|damaged")


def test_writing_replaces_the_content_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_content_and_no_other_file(
    tmp_path, monkeypatch, function, error
):
    def fail(*_):
        raise error("stopped")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(error, match="stopped"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# ---- what official checkpoints look like ----


def lightning(module, tmp_path, name="model.ckpt", **extra):
    """A checkpoint as pytorch-lightning writes it: raw weights, averages, foreign objects."""
    raw = {f"model.{name}": value for name, value in module.state_dict().items()}
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): 0.5 * value
        for name, value in raw.items()
    }
    content = {
        "epoch": 3,
        "state_dict": {
            **raw,
            **average,
            "model_ema.decay": torch.tensor(0.9999),
            "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
        },
        "callbacks": {Callback: {"best": Callback(), "score": torch.tensor(1.5)}},
        "hyper_parameters": Callback(),
        **extra,
    }
    torch.save(content, tmp_path / name)
    return tmp_path / name


class Callback:
    """An object of a library that is not there, with state and with values set on loading."""

    def __init__(self):
        self.state = {"nested": [1, 2]}

    def __reduce__(self):
        return Callback, (), {"state": self.state}, iter([1, 2]), iter([("a", 1)])

    def append(self, item):
        raise AssertionError("a method of the file's object was called")

    __setitem__ = extend = __setstate__ = append


class Wrapped(nn.Module):
    """Weights under ``model.``, as in Lightning."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))


@pytest.mark.parametrize("ema", [True, False])
def test_a_lightning_checkpoint_loads_averaged_or_raw_without_running_foreign_code(tmp_path, ema):
    source = Wrapped(0)
    path = lightning(source.model, tmp_path)
    target = Wrapped(1)
    load_checkpoint(target, path, ema=ema)
    factor = 0.5 if ema else 1.0
    assert_equal(
        values(target), {name: factor * value for name, value in source.state_dict().items()}
    )


def test_a_malicious_object_beside_the_weights_is_never_run(tmp_path):
    executed = tmp_path / "executed"
    source = Wrapped(0)
    path = lightning(source.model, tmp_path, hyper_parameters=Malice(executed))
    target = Wrapped(1)
    load_checkpoint(target, path, ema=False)
    assert_equal(values(target), source.state_dict())
    assert not executed.exists()


def test_a_malicious_object_among_the_weights_is_refused_by_name(tmp_path):
    executed = tmp_path / "executed"
    state = {"0.weight": Malice(executed), **network().state_dict()}
    torch.save({"state_dict": {**state, "0.weight": Malice(executed)}}, tmp_path / "net.ckpt")
    message = refuse(tmp_path / "net.ckpt", "refused, it holds more than tensors")
    assert "0.weight is an object of posix.mkdir" in message
    assert not executed.exists()


class Attack:
    """A call that the file asks for."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


REBUILD = torch._utils._rebuild_tensor_v2


@pytest.mark.parametrize(
    "attack",
    [
        Attack(REBUILD, 1, 2, 3, 4, 5, 6),
        Attack(REBUILD, torch.zeros(2), 0, (9, 9), (9, 1), False, None),
        Attack(collections.OrderedDict, 3),
    ],
)
def test_abuse_of_the_functions_that_tensors_need_is_refused(tmp_path, attack):
    path = lightning(Wrapped(0).model, tmp_path, extra=attack)
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(Wrapped(1), path)


def test_a_call_of_a_builtin_is_inert(tmp_path):
    path = lightning(Wrapped(0).model, tmp_path, extra=Attack(eval, "1 / 0"))
    load_checkpoint(Wrapped(1), path)


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.98])
def test_a_truncated_lightning_checkpoint_is_refused(tmp_path, keep):
    path = lightning(Wrapped(0).model, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match="refused|cannot be read|is damaged"):
        load_checkpoint(Wrapped(1), path)


def test_weights_without_averages_load_raw(tmp_path):
    state = network().state_dict()
    torch.save({"model": state, "opt": {"lr": 1.0}}, tmp_path / "raw.pth")
    target = network(seed=1)
    load_checkpoint(target, tmp_path / "raw.pth")
    assert_equal(values(target), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "a.b."])
def test_a_prefix_before_all_names_is_taken_off(tmp_path, prefix):
    module = Wrapped(0)
    state = {prefix + name: value for name, value in module.state_dict().items()}
    torch.save({**state, "betas": torch.zeros(3)}, tmp_path / "net.pt")
    target = Wrapped(1)
    load_checkpoint(target, tmp_path / "net.pt")
    assert_equal(values(target), module.state_dict())


def test_a_web_page_in_the_place_of_weights_is_recognised(tmp_path):
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"net{suffix}"
        path.write_text("\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>")
        assert "download again" in refuse(path, "is a web page, not weights")


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "net.npz").write_bytes(b"PK")
    refuse(tmp_path / "net.npz", r"unknown format; known: .safetensors, .pt, .pth, .ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = network().state_dict()
    state["2.weight"][0, 1] = value
    save_tensors(state, tmp_path / "net.safetensors", {})
    refuse(tmp_path / "net.safetensors", "2.weight has 1 values that are NaN or infinite")


def test_weights_too_large_for_half_precision_are_refused_with_the_way_out(tmp_path):
    state = network().state_dict()
    state["2.weight"][0, 1] = 1e5
    save_tensors(state, tmp_path / "net.safetensors", {})
    target = network(seed=1).half()
    with pytest.raises(CheckpointError, match=r"2.weight reaches 1e\+05, too large .* use another"):
        load_checkpoint(target, tmp_path / "net.safetensors")
    load_checkpoint(target.to(torch.bfloat16), tmp_path / "net.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_network_on_the_meta_device_is_given_its_storage(tmp_path, dtype, suffix):
    state = network().state_dict()
    path = tmp_path / f"net{suffix}"
    torch.save(state, path) if suffix == ".pt" else save_tensors(state, path, {})
    with torch.device("meta"):
        target = network(seed=1).to(dtype)
    load_checkpoint(target, path)
    assert {p.dtype for p in target.parameters()} == {dtype}
    expected = {n: v.to(dtype) if v.is_floating_point() else v for n, v in state.items()}
    assert_equal(values(target), expected)
    before = path.read_bytes()
    with torch.no_grad():
        target[0].weight += 1  # the file is not written to
    assert path.read_bytes() == before


def test_colleagues_may_read_what_the_umask_lets_them(tmp_path):
    (tmp_path / "plain").touch()
    save_tensors({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {})
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


# ---- what trainers and hubs leave ----


def raw_and_averages():
    averages = network().state_dict()
    return {name: value + 1 for name, value in averages.items()}, averages


def load(path, ema=True):
    """What a network has after loading ``path``, and where it was."""
    target = network(seed=1)
    source = load_checkpoint(target, path, ema)
    return values(target), source


@pytest.mark.parametrize(
    "key",
    ["ema", "model_ema", "ema_model", "state_dict_ema", "params_ema", "ema_state_dict", "net_ema",
     "ema_params", "model_ema1", "modelEMA", "averaged_model", "swa_model", "ema_unet"],
)  # fmt: skip
@pytest.mark.parametrize("beside", ["model", "state_dict", "net"])
def test_averages_are_known_by_the_names_that_trainers_use(key, beside, tmp_path):
    raw, averages = raw_and_averages()
    torch.save({beside: raw, key: averages, "epoch": 3, "ema_decay": 0.99}, tmp_path / "net.pt")
    state, source = load(tmp_path / "net.pt")
    assert_equal(state, averages)
    assert source == (key, True)
    state, source = load(tmp_path / "net.pt", ema=False)
    assert_equal(state, raw)
    assert source == (beside, False)


@pytest.mark.parametrize("inner", ["shadow", "state_dict", "module", "ema_model"])
def test_averages_may_lie_deeper(inner, tmp_path):
    raw, averages = raw_and_averages()
    optimizer = {"state": {"exp_avg": raw}, "param_groups": []}
    content = {"model": raw, "optimizer": optimizer, "ema": {inner: averages, "decay": 0.99}}
    torch.save(content, tmp_path / "net.pt")
    state, source = load(tmp_path / "net.pt")
    assert_equal(state, averages)
    assert source == (f"ema.{inner}", True)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("prefix, beside", [("ema_model.", "online_model."), ("ema.", "model.")])
def test_averages_may_lie_under_a_prefix(prefix, beside, suffix, tmp_path):
    raw, averages = raw_and_averages()
    both = {prefix + name: value for name, value in averages.items()}
    both |= {beside + name: value for name, value in raw.items()} | {"step": torch.tensor(7)}
    path = tmp_path / f"net{suffix}"
    torch.save(both, path) if suffix == ".pt" else save_tensors(both, path, {})
    state, source = load(path)
    assert_equal(state, averages)
    assert source == (prefix[:-1], True)
    assert_equal(load(path, ema=False)[0], raw)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_averages_alone_under_a_prefix_are_not_taken_for_raw_weights(suffix, tmp_path):
    _, averages = raw_and_averages()
    path = tmp_path / f"net{suffix}"
    state = {f"ema.{name}": value for name, value in averages.items()}
    torch.save(state, path) if suffix == ".pt" else save_tensors(state, path, {})
    assert_equal(load(path)[0], averages)
    with pytest.raises(CheckpointError, match=r"has only averages \(ema\): use ema=true"):
        load(path, ema=False)


def test_averages_that_match_a_part_of_the_weights_are_refused(tmp_path):
    raw = Wrapped(0).state_dict()
    # LitEma keeps none of what is not trained, here all but one weight.
    average = {"model_ema.0weight": raw["model.0.weight"], "model_ema.decay": torch.tensor(0.9999)}
    state = {**raw, **average}
    torch.save(state, tmp_path / "net.pt")
    load_checkpoint(Wrapped(1), tmp_path / "net.pt")
    torch.save({**state, "model_ema.0other": raw["model.0.bias"]}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="averages of weights that it lacks: model_ema.0othe"):
        load_checkpoint(Wrapped(1), tmp_path / "net.pt")
    load_checkpoint(Wrapped(1), tmp_path / "net.pt", ema=False)


@pytest.mark.parametrize("ema", [{}, None, []])
def test_empty_averages_are_said(ema, tmp_path):
    raw, _ = raw_and_averages()
    torch.save({"model": raw, "ema": ema}, tmp_path / "net.pt")
    refuse(tmp_path / "net.pt", "net.pt has no averaged weights: ema is empty; ema=false takes")
    assert_equal(load(tmp_path / "net.pt", ema=False)[0], raw)


def test_averages_without_names_are_said(tmp_path):
    raw, averages = raw_and_averages()
    for ema in ([*averages.values()], {"shadow_params": [*averages.values()], "decay": 0.99}):
        torch.save({"model": raw, "ema": ema}, tmp_path / "net.pt")
        refuse(tmp_path / "net.pt", r"has averaged weights \(ema\) without their names")


def test_what_cannot_be_told_apart_is_refused_with_the_keys(tmp_path):
    raw, averages = raw_and_averages()
    for content, message in (
        ({"model": raw, "teacher": averages}, "several state dicts of one network: model, teacher"),
        ({"model": raw, "ema1": averages, "ema2": raw}, "has several averages: ema1, ema2"),
        ({"first": raw, "second": {"x": raw["0.bias"]}}, "several state dicts: first, second"),
        ({"epoch": 3, "lr": 0.1}, "is not a state dict: .*; its keys are epoch, lr"),
    ):
        torch.save(content, tmp_path / "net.pt")
        refuse(tmp_path / "net.pt", message)
    torch.save({"ema": averages}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="it has only averages .ema.: use ema=true"):
        load(tmp_path / "net.pt", ema=False)


def test_a_file_of_weights_alone_does_not_say_whether_they_are_averages(saved):
    assert load(saved)[1] == (None, None)


@pytest.mark.parametrize(
    "inside",
    ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module.",
     "_fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod."],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_what_wrappers_add_is_taken_off_anywhere_in_a_name(inside, before, tmp_path):
    module = Wrapped(0)
    state = {
        before + name.replace("model.1.", f"model.{inside}1.{inside}"): value
        for name, value in module.state_dict().items()
    }
    torch.save(state, tmp_path / "net.pt")
    target = Wrapped(1)
    load_checkpoint(target, tmp_path / "net.pt")
    assert_equal(values(target), module.state_dict())


def test_weights_that_are_there_wrapped_and_not_are_refused(tmp_path):
    state = Wrapped(0).state_dict()
    torch.save({**state, "model._orig_mod.0.bias": state["model.0.bias"]}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="has weights twice"):
        load_checkpoint(Wrapped(1), tmp_path / "net.pt")


def in_parts(folder, state, suffix="safetensors"):
    """As huggingface_hub splits weights: two files and an index."""
    stem = "diffusion_pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    placed = {name: names[i % 2] for i, name in enumerate(state)}
    folder.mkdir()
    for file in names:
        part = {name: state[name] for name in state if placed[name] == file}
        if suffix == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": placed}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_by_their_index(suffix, tmp_path):
    state = network().state_dict()
    index = in_parts(tmp_path / "parts", state, suffix)
    for path in (index.parent, index):
        assert_equal(load(path)[0], state)
    before = recorded_sha256(index)
    assert before == recorded_sha256(index.parent)
    other = {**state, "0.bias": state["0.bias"] + 1}
    assert recorded_sha256(in_parts(tmp_path / "other", other, suffix)) != before


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda index: index.write_text(""), "index.json is damaged"),
        (lambda index: index.write_text("{}"), "is not an index: its weight_map"),
        (lambda index: index.write_text('{"weight_map": {"x": "../x.bin"}}'), "is not an index"),
        (lambda index: index.write_text('{"weight_map": {"x": "a.bin"}}'), "lacks a.bin; get"),
        (
            lambda index: index.write_text(index.read_text().replace("2.weight", "3.weight")),
            "lacks 3.weight and 0 more that its index",
        ),
        (lambda index: index.with_name("b.bin.index.json").write_text("{}") and index.rename(
            index.with_name("a.bin.index.json")), "nor one index of several files"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_named(harm, message, tmp_path):
    index = in_parts(tmp_path / "parts", network().state_dict())
    harm(index)
    with pytest.raises(CheckpointError, match=message) as error:
        load(index.parent)
    assert str(index.parent) in str(error.value)


def test_suffix_and_record_are_those_of_a_link(saved, tmp_path):
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    saved.rename(blobs / "685062b1c7a5")
    saved.symlink_to(blobs / "685062b1c7a5")
    assert_equal(load(saved)[0], {n: v.half().float() if v.is_floating_point() else v
                                  for n, v in network().state_dict().items()})  # fmt: skip
    data = bytearray((blobs / "685062b1c7a5").read_bytes())
    data[-1] ^= 1
    (blobs / "685062b1c7a5").write_bytes(data)
    refuse(saved, "net.json says")
    (blobs / "685062b1c7a5").unlink()
    refuse(saved, "does not exist, it is a link to .*685062b1c7a5, which is gone")


def test_a_json_of_others_beside_weights_is_no_record(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "net.safetensors")
    for content in (
        '{"hidden_size": 56}',
        "[1]",
        '{"file": "net.pt", "sha256": "' + 64 * "0" + '"}',
    ):
        (tmp_path / "net.json").write_text(content)
        assert_equal(load(tmp_path / "net.safetensors")[0], state)


@pytest.mark.parametrize("content", ["", "{", '{"sha256": 5}', '{"sha256": "abc"}', "\x00"])
def test_a_damaged_record_is_named(content, saved):
    record_path(saved).write_text(content)
    with pytest.raises(CheckpointError, match="net.json is damaged"):
        load(saved)


def test_a_flipped_bit_in_a_pickle_without_a_record_is_found(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(network().state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.index(network().state_dict()["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(data)
    refuse(path, "net.pt is damaged: the checksum of its member .* differs")


# ---- file systems that lack something ----


@pytest.mark.parametrize("function", ["chmod", "fsync"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_chmod_or_fsync_is_written_to(
    tmp_path, monkeypatch, function, number
):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)
    save_tensors({"x": torch.ones(3)}, tmp_path / "x.safetensors", {})
    assert torch.equal(read_tensors(tmp_path / "x.safetensors")["x"], torch.ones(3))
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "x.json"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_hard_links_one_of_many_still_creates_a_file(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)
    assert create_exclusively(tmp_path / "file", b"one")
    assert not create_exclusively(tmp_path / "file", b"other")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"one"]


def test_a_disk_that_is_full_is_found_before_work_and_named(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b", "runs")
    assert list(tmp_path.iterdir()) == []

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(InputError, match=r"runs=.*/a/b cannot be written to: No space left.*room"):
        check_writable(tmp_path / "a" / "b", "runs")
