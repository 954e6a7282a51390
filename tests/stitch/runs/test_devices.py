"""Which device a process computes on, and what is refused."""

from types import SimpleNamespace

import pytest
import torch

from models.errors import InputError
from stitch.runs import devices
from stitch.runs.pipeline import load_pipeline
from stitch.training import Workshop
from tests import text_pipeline
from tests.commands import compose, refusal


@pytest.fixture
def machine(monkeypatch):
    """A machine with ``machine.count`` accelerators of ``machine.kind``."""
    found = SimpleNamespace(kind=None, count=0, index=None, joined=None)

    def current(check_available=False):
        # A torch that was built for a GPU knows it whether there is one or not.
        here = found.kind if check_available else "cuda"
        return torch.device(here) if here else None

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: found.count)
    monkeypatch.setattr(
        torch.accelerator, "set_device_index", lambda device: setattr(found, "index", device.index)
    )
    monkeypatch.setattr(devices.distributed, "join", lambda d: setattr(found, "joined", d))
    return found


def test_without_an_accelerator_it_is_the_cpu(machine):
    assert devices.start() == devices.start("cpu") == torch.device("cpu")
    assert machine.joined == torch.device("cpu") and machine.index is None


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_an_accelerator_is_taken_unless_another_device_is_wanted(machine, kind):
    machine.kind, machine.count = kind, 1
    assert devices.start() == devices.start(kind) == torch.device(kind, 0) == machine.joined
    assert machine.index == 0
    assert devices.start("cpu") == torch.device("cpu") == machine.joined


def test_every_process_of_a_machine_has_an_accelerator_of_its_own(machine, monkeypatch):
    machine.kind, machine.count = "xpu", 2
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices.start() == torch.device("xpu", 1)
    assert machine.index == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of this machine has no GPU: there are 2"):
        devices.start()
    assert devices.start("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "kind, wanted, message",
    [
        (None, "cuda", "device=cuda, but torch .* finds only cpu here; use device=cpu or auto"),
        ("mps", "cuda", "finds only mps and cpu here; use device=mps or auto"),
    ],
)
def test_a_device_that_is_not_here_is_refused(machine, kind, wanted, message):
    machine.kind, machine.count = kind, 1
    with pytest.raises(InputError, match=message):
        devices.start(wanted)


@pytest.mark.parametrize(
    "command, words",
    [
        ("sample", []),
        ("sweep", []),
        ("evaluate", ["samples=nowhere"]),
        ("latency", []),
        ("plan", ["budget=1s"]),
        ("bench", []),
        ("figures", ["figure=fig05"]),
        ("claims", ["figure=fig09"]),
        ("report", ["figure=fig09"]),
        ("memorisation", []),
        ("timesteps", []),
        ("train", []),
        ("reference", ["reference=a.safetensors"]),
    ],
)
def test_every_command_that_computes_has_the_setting(machine, command, words, tmp_path):
    runs = [] if command == "reference" else [f"runs={tmp_path}"]
    assert "device=xpu, but torch" in refusal(command, "device=xpu", *words, *runs)


def test_a_device_that_torch_does_not_know_is_refused():
    message = "device=tpu must be auto | cpu | cuda | mps | xpu"
    assert message in refusal("sample", "device=tpu")


def test_auto_precision_is_bf16_only_where_it_is_known_to_be_native(monkeypatch):
    mps, xpu = torch.device("mps"), torch.device("xpu")
    assert devices.dtype("auto", mps) == torch.float32
    assert devices.dtype("fp16", mps) == torch.float16
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda including_emulation, n=native: n)
        assert devices.dtype("auto", xpu) == dtype


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_on_a_cpu_that_cannot_multiply_it_is_warned_of(monkeypatch, caplog, fast):
    monkeypatch.setattr(devices.bf16, "ONEDNN", fast)
    devices.warn_of_slow_products(torch.bfloat16, torch.device("cpu"))
    warned = "use precision=fp32 or auto" in caplog.text
    assert warned == (not fast)


def test_training_and_pipelines_warn_of_it(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(devices.bf16, "ONEDNN", False)
    cpu = torch.device("cpu")
    Workshop(compose("train", "zoo=fashion", "precision=bf16"), cpu, open_split=None)
    assert caplog.text.count("use precision=fp32 or auto") == 1
    small = text_pipeline.settings(text_pipeline.save(tmp_path / "tiny"))
    load_pipeline(compose("text2image", *small, "precision=bf16"), cpu)
    assert caplog.text.count("use precision=fp32 or auto") == 2


def test_cpus_of_unlike_instructions_have_unlike_names(monkeypatch):
    names = []
    for capability in ("AVX2", "AVX512"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda one=capability: one)
        names.append(devices.name(torch.device("cpu")))
    assert " with AVX2, " in names[0] and "AVX2" not in names[1]
