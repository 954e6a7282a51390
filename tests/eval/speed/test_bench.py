"""The speed bench: what it measures is written down, what it cannot measure is refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import models
from eval.speed import metric_peers as bench_metrics
from eval.speed import networks, timing
from eval.speed import operators as bench_profile
from models import bf16
from models.cost import activation_bytes
from models.errors import InputError
from stitch.runs import build, devices, matmul, memory
from stitch.runs import run as run_module
from tests import ROOT
from tests.commands import compose, refusal


def bench(*overrides):
    return subprocess.run(
        [sys.executable, "-m", "scripts.bench", *overrides],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


def test_networks_are_measured_against_matrix_products_and_written_down(tmp_path):
    result = bench(
        "network", "denoisers=[DiT-S]", "variants=[fp32]", "batch_size=4", "repetitions=2",
        f"results={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "network-fashion-DiT-S.json").read_text())
    (row,) = found["rows"]
    assert row["gflops"] == pytest.approx(
        2 * models.load_zoo("fashion").macs("DiT-S") * 4 / row["median_ms"] / 1e6
    )
    assert row["share_of_matmul"] == pytest.approx(row["gflops"] / row["matmul_gflops"])
    assert found["machine"]["threads"] >= 1
    page = (tmp_path / "network-fashion-DiT-S.md").read_text()
    assert "| network | fashion | DiT-S | fp32 | 4 |" in page


def test_both_libraries_compute_the_same_metrics_when_they_are_compared():
    values = {task: work() for task, work in bench_metrics.tasks((60, 50, 16)).items()}
    for what, key in [
        ("FID of moments", "frechet_inception_distance"),
        ("FID of features", "frechet_inception_distance"),
        ("Inception Score", "inception_score_mean"),
    ]:
        theirs = values["torch-fidelity", what][key]
        assert values["ours", what] == pytest.approx(theirs, rel=1e-6)
    theirs = values["torch-fidelity", "precision and recall"]
    assert values["ours", "precision and recall"] == pytest.approx(
        (theirs["precision"], theirs["recall"]), rel=1e-6
    )


def test_a_profile_accounts_for_the_whole_call(tmp_path):
    result = bench(
        "profile", "denoisers=[DiT-S]", "variants=[fp32]", "batch_size=4", f"results={tmp_path}"
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "profile-fashion-DiT-S.json").read_text())["rows"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert "aten::addmm" in {row["operator"] for row in rows}
    listed = [row["share"] for row in rows[:-2]]  # the last two are what is left
    assert listed == sorted(listed, reverse=True)


def test_fused_kernels_are_called_by_what_they_fuse():
    assert bench_profile.readable("graph_0_cpp_fused_addmm_gelu_12") == "fused addmm_gelu"
    assert bench_profile.readable("aten::mm") == "aten::mm"


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["bench=peers", "peers=[torch-fidelity]", "features=[10, 10, 4]"], "whole numbers of 10"),
        (
            ["bench=peers", "peers=[torch-fidelity]", "metrics=[fid]"],
            "metrics=['fid'] is unknown; known: ['FID of moments'",
        ),
        (["bench=peers", "peers=[tensorrt]"], "tensorrt is unknown; known: diffusers"),
        (["bench=network", "batch_size=100000000", "variants=[fp32]"], "at most"),
        (["bench=network", "variants=[bf16+int3]"], "bf16+int3 is unknown; say PRECISION"),
    ],
)
def test_what_cannot_be_measured_is_one_line(overrides, message, tmp_path):
    assert message in refusal("bench", *overrides, f"results={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_memory_of_activations_is_that_of_the_largest_step():
    def network(side, depth):
        sizes = dict(patch_size=1, width=64, depth=depth, num_heads=1)
        with torch.device("meta"):
            return models.create("DiT", latent_shape=(4, side, side), **sizes).to("meta")

    tokens, full = 256, activation_bytes(network(16, 2))
    # At least the hidden layer of the MLP, its activation and the residual.
    assert full >= 4 * tokens * (4 + 4 + 1) * 64
    assert full < 4 * tokens * (8 * tokens)
    # Weights are not counted, nor are the activations of blocks that are done.
    assert activation_bytes(network(16, 6)) == full
    # Of few tokens, whose scores are in float32 in any precision.
    assert activation_bytes(network(2, 2).to(torch.bfloat16)) < activation_bytes(network(2, 2))


def test_a_batch_that_does_not_fit_says_which_does(monkeypatch):
    def out_of_memory(*arguments, **options):
        raise torch.OutOfMemoryError("Tried to allocate 80 GiB")

    config = compose("sample")
    run = build.create(config, build.load_zoo(config, torch.device("cpu")))
    monkeypatch.setattr(run_module, "launch_latents", out_of_memory)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    with pytest.raises(InputError, match=r"batch_size=100 does not fit .*; \d+ does"):
        run.images(range(100))


@torch.no_grad()
def test_a_trajectory_is_measured_as_a_whole_and_within_its_networks():
    words = [
        "bench=trajectory",
        "sampler.steps=4",
        "batch_size=2",
        "repetitions=2",
        "fractions=[0,1]",
    ]
    config = compose("bench", *words, "precision=fp32", "denoisers=[DiT-S,DiT-XL]")
    large, small = networks.trajectory(config, torch.device("cpu"))
    macs = models.load_zoo("fashion").macs
    assert large["allocation"] == "DiT-XL*4"
    assert large["gmacs_per_image"] == pytest.approx(4 * 2 * macs("DiT-XL") / 1e9)  # guided
    assert large["speed_up"] == large["ideal_speed_up"] == 1
    assert small["ideal_speed_up"] == pytest.approx(macs("DiT-XL") / macs("DiT-S"))
    assert small["stitch_efficiency"] == small["speed_up"] / small["ideal_speed_up"]
    for row in (large, small):
        assert 0 < row["outside_networks"] < 1


@torch.no_grad()
def test_fractions_that_round_to_one_allocation_are_measured_each():
    config = compose(
        "bench", "bench=trajectory", "sampler.steps=4", "batch_size=2", "repetitions=2",
        "fractions=[0,0.1]", "precision=fp32", "denoisers=[DiT-S,DiT-B]",
    )  # fmt: skip
    none, few = networks.trajectory(config, torch.device("cpu"))
    assert none["allocation"] == few["allocation"] == "DiT-B*4"
    for row in (none, few):
        assert 0 < row["outside_networks"] < 1


def test_a_stopwatch_adds_up_what_it_is_around(monkeypatch):
    clock = iter([1.0, 3.0, 10.0, 10.5])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    watch = timing.Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch:
            pass
    assert watch.seconds() == 2.5


def test_tasks_are_timed_in_turn_after_a_warm_up():
    order = []
    tasks = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = timing.in_turn(tasks, 3, torch.device("cpu"))
    assert order == ["a", "b"] * 4
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert timing.summary([0.1, 0.2, 0.4])["median_ms"] == pytest.approx(200)
    assert timing.summary([0.1, 0.2, 0.4])["spread"] == pytest.approx(1.5)


def test_the_rate_is_the_best_that_a_product_sustains(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(matmul, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def product(name, *seconds):
        def multiply():
            taken = seconds[min(calls.count(name), len(seconds) - 1)]
            calls.append(name)
            clock[0] += taken

        return multiply, 6_000_000

    # The first call of each is slow; what is fast for once is not sustained.
    small = product("small", 5.0, 0.06, 0.001, 0.06)
    large = product("large", 9.0, 0.2, 0.04, 0.06, 0.2)
    rate = matmul.sustained_rate([small, large], 2, torch.device("cpu"))
    assert rate == pytest.approx(3 * 6_000_000 / (0.06 + 0.001 + 0.06))


def test_products_are_of_several_shapes_and_their_operations_are_counted():
    made = matmul.products(torch.bfloat16, torch.device("cpu"))
    assert len({operations for _, operations in made}) >= 3
    product, operations = made[0]
    assert operations == 2 * product().shape[0] ** 3


def test_a_cpu_is_measured_by_what_its_networks_multiply(monkeypatch):
    monkeypatch.setattr(bf16, "ONEDNN", False)
    (product, _), *_ = matmul.products(torch.bfloat16, torch.device("cpu"))
    assert product().dtype == torch.float32


def test_a_share_above_all_of_the_rate_is_refused():
    assert timing.share("DiT-XL bf16", 8e11, 1e12) == 0.8
    with pytest.raises(InputError, match="DiT-XL bf16 reached 1,000 GFLOP/s, .* only 318: .*idle"):
        timing.share("DiT-XL bf16", 1e12, 3.18e11)


def test_a_precision_that_the_device_cannot_run_is_refused():
    cpu = torch.device("cpu")
    assert devices.dtype("fp32", cpu) == torch.float32
    assert devices.dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(InputError, match="precision=fp16 is for GPUs; use precision=auto"):
        devices.dtype("fp16", cpu)
    with pytest.raises(InputError, match="precision=fp8 is unknown; known: auto, fp32"):
        devices.dtype("fp8", cpu)
