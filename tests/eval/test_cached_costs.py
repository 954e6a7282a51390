"""What runs with a cache cost: planned, measured, and asked for."""

import json
import shlex
import time
from types import SimpleNamespace

import pytest
import torch

from eval.estimate import Costs, cost
from eval.paper.evidence import latency_command
from eval.speed import budget as plan
from eval.speed import latency
from stitch.cost import CostTable
from stitch.runs import build, devices, matmul
from tests.commands import compose

SMALL = [
    "allocation.denoisers=[DiT-S,DiT-B]", "sampler.steps=8", "num_images=12", "batch_size=2",
    "shard_size=4", "cache=forecast",
]  # fmt: skip


def create(*overrides):
    config = compose("sample", *SMALL, *overrides)
    return build.create(config, build.load_zoo(config, torch.device("cpu")))


def test_a_plan_counts_evaluations_and_the_little_that_forecasts_are(tmp_path):
    runs = [create(f"allocation.small={share}") for share in (0, 0.5, 1)]
    spent = cost(runs, Costs(compose("sweep", *SMALL, f"runs={tmp_path}")))
    # Nothing is shared: full are 0, 1, 4, 7 of eight steps, or the first two of each four.
    assert spent.evaluations == spent.shared == 12 * 2 * (4 + 4 + 4)
    assert spent.macs == 12 * sum(run.cost()["macs_per_image"] for run in runs)


def test_a_measured_cost_table_counts_if_it_has_forecasts(tmp_path):
    run = create("allocation.small=0")
    config = compose("sweep", *SMALL, f"runs={tmp_path}")
    facts = {
        "zoo": "fashion", "dtype": "float32", "device": devices.name(torch.device("cpu")),
        "quantisation": None, "compile": False, "decoder": "first-stage", "time": "2026-01-01",
    }  # fmt: skip
    (tmp_path / "costs").mkdir()

    def hours(steps):
        table = json.dumps(CostTable(1, steps, 0.0, facts).to_json())
        (tmp_path / "costs" / "measured.json").write_text(table)
        return cost([run], Costs(config)).hours[0]

    assert hours({("DiT-B",): 3600.0}) < 1  # by the stated throughput
    both = {("DiT-B",): 3600.0, ("forecast of DiT-B",): 900.0}
    assert hours(both) == pytest.approx(12 * 2 * (4 + 4 / 4))


@pytest.fixture
def clock(monkeypatch):
    """Time that only networks take: an image 1 ms of DiT-S, 3 ms of DiT-B, a tenth if forecast."""
    now, zoo = [0.0], build.load_zoo(compose("latency"), torch.device("cpu"))
    fake = SimpleNamespace(perf_counter=lambda: now[0], strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(matmul, "time", fake)

    def timed(method, seconds):
        def call(*inputs):
            now[0] += seconds * len(inputs[0])
            return method(*inputs)

        return call

    for name, seconds in {"DiT-S": 1e-3, "DiT-B": 3e-3}.items():
        network = zoo.denoisers[name]
        for method, share in (("evaluate", 1), ("reuse", 0.1)):
            call = timed(getattr(network, method), share * seconds)
            monkeypatch.setitem(vars(network), method, call)


@pytest.mark.parametrize("cache", ["cache=forecast", "cache=deep"])
def test_the_measured_table_predicts_what_a_batch_with_a_cache_takes(cache, tmp_path, clock):
    config = compose(
        "plan", "budget=1", "sampler.steps=8", "repetitions=2", f"runs={tmp_path}", cache,
        "allocations=[DiT-S*8,DiT-S*4+DiT-B*4,DiT-B*8]",
    )  # fmt: skip
    points = latency.allocations(config, build.load_zoo(config, torch.device("cpu")))
    costs = plan.cost_table(config, points)
    assert costs.facts["cache"] == points[0].settings["cache"]
    expected = {
        ("DiT-S",) * 2: 0.016, ("forecast of DiT-S",) * 2: 0.0016,
        ("DiT-B",) * 2: 0.048, ("forecast of DiT-B",) * 2: 0.0048,
    }  # fmt: skip
    assert costs.steps == pytest.approx(expected)
    choices = plan.rank(points, costs, {})
    for choice in choices:
        assert plan.verify(choice.run, 8, 1) == pytest.approx(choice.seconds)
    (large,) = (choice for choice in choices if str(choice.run.allocation) == "DiT-B*8")
    zoo, full = large.run.zoo, {0, 1, 4, 7} if cache == "cache=forecast" else {0, 3, 6}
    macs = [(zoo.macs if step in full else zoo.reuse_macs)("DiT-B") for step in range(8)]
    late = sum(2 * (step + 1) / 8 * macs[step] for step in range(8))
    assert large.late_macs == pytest.approx(late)


@pytest.mark.parametrize(
    "overrides", [["cache.interval=4", "cache.order=2"], ["cache=deep"], ["cache=none"]]
)
def test_latencies_that_were_not_measured_are_asked_for_with_their_cache(overrides):
    run = create(*overrides, "compile=true")
    asked = compose("figures", "runs=a b")
    words = shlex.split(latency_command([SimpleNamespace(run=run)], asked))
    config = compose("latency", *words[3:])
    assert (config.runs, config.compile) == ("a b", True)
    (measured,) = latency.allocations(config, run.zoo)
    assert measured.timing_key == run.timing_key
    assert latency.setting(config, [measured]).get("cache") == run.settings.get("cache")
