"""Cost tables, budgets and latencies."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from eval.paper import tables
from eval.speed import budget as plan
from eval.speed import finalists, latency
from models.errors import InputError
from stitch import Allocation, evaluations
from stitch.cost import CostTable, candidates, lateness
from stitch.runs import build, matmul, memory, warmup
from stitch.runs.records import ResultStore
from stitch.runs.run import timing_key
from stitch.runs.shards import ShardFolder
from tests.commands import compose

COSTS = CostTable(8, {("DiT-S",) * 2: 0.01, ("DiT-B",) * 2: 0.03, ("DiT-XL",) * 2: 0.1}, 0.05)


@pytest.fixture(scope="module")
def points():
    config = compose("plan", "budget=1", "sampler.steps=10")
    return latency.allocations(config, build.load_zoo(config, torch.device("cpu")))


@pytest.fixture
def clock(monkeypatch):
    """Time that only networks take: an image 1 ms of DiT-S, 3 ms of DiT-B, 10 ms of DiT-XL."""
    now, zoo = [0.0], build.load_zoo(compose("latency"), torch.device("cpu"))
    fake = SimpleNamespace(perf_counter=lambda: now[0], strftime=time.strftime, gmtime=time.gmtime)
    monkeypatch.setattr(matmul, "time", fake)

    def pass_time(seconds, images):
        now[0] += seconds * images

    hooks = [
        zoo.denoisers[name].register_forward_hook(
            lambda _, inputs, output, seconds=seconds: pass_time(seconds, len(output))
        )
        for name, seconds in {"DiT-S": 1e-3, "DiT-B": 3e-3, "DiT-XL": 1e-2}.items()
    ]
    yield
    for hook in hooks:
        hook.remove()


def test_all_allocations_of_three_denoisers_are_66_pairs_and_single_ones_among_them():
    found = {str(one) for one in candidates("abc", 10, 100)}
    assert len(found) == 66
    assert {"a*100", "b*30+c*70", "a*30+c*70", "a*10+b*20+c*70"} <= found
    assert len(candidates("abc", 10, 2)) == 6  # those that are the same in so few steps, once


@pytest.mark.parametrize(
    "text, seconds",
    [("2.5s", 2.5), ("800ms", 0.8), ("1 min", 60), (3, 3), ("0.5", 0.5), (".5s", 0.5)],
)
def test_a_budget_is_a_time(text, seconds):
    assert plan.parse_budget(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["fast", "2h", "-1s", "0", "1s2", ""])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(InputError, match=f"budget={text} must be a time"):
        plan.parse_budget(text)


def test_a_time_is_predicted_from_steps_and_all_else():
    allocation = Allocation.parse("DiT-S*3+DiT-XL*2")
    guided = [(name, name) for name in allocation.steps]
    assert COSTS.seconds(guided) == pytest.approx(0.05 + 3 * 0.01 + 2 * 0.1)
    assert COSTS.evaluation_seconds()["DiT-XL"] == pytest.approx(0.1 / 2 / 8)
    assert CostTable.from_json(COSTS.to_json()) == COSTS
    stated = CostTable.from_throughput({"DiT-S": 10, "DiT-XL": 100}, 1000)
    assert stated.seconds(guided) == pytest.approx(2 * (3 * 0.01 + 2 * 0.1))


def test_late_multiply_accumulates_count_more():
    macs = {"a": 1, "b": 10}
    early, late = (lateness([(name,) for name in steps], macs) for steps in ("ba", "ab"))
    assert (early, late) == (6, 10.5)


def test_allocations_over_the_budget_are_left_out_and_the_rest_ranked_by_late_macs(points):
    fitting = plan.within(plan.rank(points, COSTS, {}), 0.505)
    assert all(choice.seconds <= 0.505 for choice in fitting)
    late = [choice.late_macs for choice in fitting]
    assert late == sorted(late, reverse=True)
    # 0.455 s for ten steps: beside four of DiT-XL there is no place for six others; of seven
    # beside three, four may be DiT-B's.
    assert str(fitting[0].run.allocation) == "DiT-S*3+DiT-B*4+DiT-XL*3"


def test_recorded_allocations_come_first_by_fid_and_the_frontier_is_marked(points, tmp_path):
    store = ResultStore(tmp_path / "records")
    for text, fid in (("DiT-S*10", 3.0), ("DiT-B*10", 5.0), ("DiT-XL*10", 1.0)):
        run = next(run for run in points if str(run.allocation) == text)
        store.add({"run": run.settings, "protocol": {"num_images": 9}, "metrics": {"fid": fid}})
        if text != "DiT-XL*10":  # fewer under another protocol: never mixed in
            store.add({"run": run.settings, "protocol": {"num_images": 2}, "metrics": {"fid": 0.0}})
    config = compose("plan", "budget=1", f"runs={tmp_path}")
    choices = plan.rank(points, COSTS, plan.find_records(config, points))
    first = [(str(c.run.allocation), c.metrics["fid"], c.on_frontier) for c in choices[:3]]
    assert first == [("DiT-XL*10", 1.0, True), ("DiT-S*10", 3.0, True), ("DiT-B*10", 5.0, False)]
    assert len(choices) == len(points) > 3
    assert all(choice.metrics is None for choice in choices[3:])


def test_a_record_without_fid_is_none_to_a_plan(points, tmp_path):
    store = ResultStore(tmp_path / "records")
    small, large = (run for run in points if str(run.allocation) in ("DiT-S*10", "DiT-XL*10"))
    for run, name, extractor in (
        (small, "fid", "inception"), (small, "fd_dinov2", "dinov2"), (large, "fd_dinov2", "dinov2"),
    ):  # fmt: skip
        protocol = {"extractor": extractor}
        store.add({"run": run.settings, "protocol": protocol, "metrics": {name: 3.0}})
    config = compose("plan", "budget=1", f"runs={tmp_path}")
    first, *others = plan.rank(points, COSTS, plan.find_records(config, points))
    assert first.run is small and first.metrics == {"fid": 3.0}
    assert all(choice.metrics is None for choice in others)


def test_a_budget_below_the_cheapest_allocation_is_told_the_minimum(points):
    with pytest.raises(
        InputError, match=r"below the cheapest allocation, DiT-S\*10: it takes 0.15 s"
    ):
        plan.within(plan.rank(points, COSTS, {}), 0.1)


def test_the_measured_table_predicts_what_a_batch_takes(points, tmp_path, clock):
    measured = "plan", "budget=1", "sampler.steps=10", "repetitions=2", f"runs={tmp_path}"
    config = compose(*measured)
    pair = [run for run in points if "DiT-B" not in str(run.allocation)]
    costs = plan.cost_table(config, pair)
    (file,) = (tmp_path / "costs").glob("*.json")
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "once": 7.0}))
    # Read, the second time, and measured again only if that is asked for.
    assert plan.cost_table(config, pair) == dataclasses.replace(costs, once=7.0)
    again = plan.cost_table(compose(*measured, "measure=true"), pair)
    assert again.steps == pytest.approx(costs.steps) and again.once != 7.0
    (half,) = (run for run in pair if str(run.allocation) == "DiT-S*5+DiT-XL*5")
    steps = evaluations(half.allocation, half.guidance, half.sampler.timesteps)
    assert plan.verify(half, 8, 1) == pytest.approx(costs.seconds(steps))
    small, large = costs.steps["DiT-S", "DiT-S"], costs.steps["DiT-XL", "DiT-XL"]
    assert (small, large) == pytest.approx((2 * 8 * 1e-3, 2 * 8 * 1e-2))


def test_a_rank_has_the_cost_table_of_the_main_one_and_measures_none(points, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    received = lambda values, src: values.__setitem__(0, COSTS)  # noqa: E731
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", received)
    monkeypatch.setattr(latency, "measure_costs", None)
    config = compose("plan", "budget=1", "sampler.steps=10", f"runs={tmp_path}")
    assert plan.cost_table(config, points) == COSTS


def test_what_is_measured_is_compiled_before_however_few_images_a_run_has(monkeypatch):
    compiled, called = set(), set()
    monkeypatch.setattr(
        warmup, "compile_forward", lambda network, x, *_: compiled.add((network, len(x))) or 0.0
    )
    config = compose(
        "latency", "sampler.steps=2", "allocations=[DiT-S*1+DiT-B*1]", "batch_size=16",
        "shard_size=16", "num_images=3", "repetitions=1", "memory=false", "compile=true",
    )  # fmt: skip
    zoo = build.load_zoo(config, torch.device("cpu"))
    networks = [zoo.denoisers["DiT-S"], zoo.denoisers["DiT-B"]]
    note = lambda network, inputs: called.add((network, len(inputs[0])))  # noqa: E731
    hooks = [network.register_forward_pre_hook(note) for network in networks]
    (run,) = latency.allocations(config, zoo)
    latency.measure(config, [run])
    latency.measure_costs(config, [run], 4)
    finalists.measured({"run": run}, repetitions=1, warm_up=1)
    plan.verify(run, 2, repetitions=1)
    for hook in hooks:
        hook.remove()
    assert called <= compiled
    assert {rows for _, rows in called} == {2 * 8, 2 * 16, 2 * 4, 2 * 2}  # with guidance


def test_peak_memory_is_of_8_images_though_compiled_runs_have_larger_batches(monkeypatch):
    monkeypatch.setattr(memory, "alone", lambda function, *arguments: function(*arguments))
    config = compose(
        "latency", "sampler.steps=2", "allocation=runs", "allocation.runs=DiT-S*2",
        "batch_size=16", "shard_size=16", "compile=true",
    )  # fmt: skip
    rows, zoo = set(), build.load_zoo(config, torch.device("cpu"))
    hook = zoo.denoisers["DiT-S"].register_forward_pre_hook(
        lambda network, inputs: rows.add(len(inputs[0]))
    )
    latency.peak_memory(config)
    hook.remove()
    assert rows == {2 * 8}  # with guidance


def test_latencies_are_of_8_images_and_of_large_batches_with_size_and_memory(clock):
    config = compose(
        "latency", "sampler.steps=2", "allocations=[DiT-S*2,DiT-S*1+DiT-B*1]",
        "batch_size=16", "shard_size=16", "repetitions=2", "memory=false",
    )  # fmt: skip
    zoo = build.load_zoo(config, torch.device("cpu"))
    made = latency.allocations(config, zoo)
    result = latency.measure(config, made)
    assert (result["zoo"], result["batch_size"], result["repetitions"]) == ("fashion", 16, 2)
    one, both = result["points"]
    assert both["allocation"] == "DiT-S*1+DiT-B*1"
    for point, milliseconds in ((one, 2 * 2 * 1), (both, 2 * (1 + 3))):
        assert point["ms_per_image"] == pytest.approx(milliseconds)
        assert point["ms_per_8_images"] == pytest.approx(8 * milliseconds)
        for name in ("ms_per_8_images", "ms_per_image"):
            assert 0 < point[f"{name}_fastest"] <= point[name] <= point[f"{name}_slowest"]
    networks = {name: zoo.denoisers[name] for name in ("DiT-S", "DiT-B")}
    counts = {k: sum(p.numel() for p in n.parameters()) for k, n in networks.items()}
    assert (one["params"], both["params"]) == (counts["DiT-S"], sum(counts.values()))
    assert both["storage_bytes"] >= 2 * both["params"]  # stored in bf16
    assert len(latency.table(result)) == 4
    assert 100 < latency.peak_memory(config)["peak_rss_mb"] < 4000


@pytest.fixture
def sources(tmp_path):
    """Names of files and whether they are compiled, and allocations -> the file of each's time."""
    setting = {
        "zoo": "fashion", "sampler": {"name": "ddim"}, "dtype": "float32", "device": "CPU",
        "guidance": {"scale": 1.5}, "batch_size": 8, "decoder": "first-stage",
        "time": "2026-01-01",
    }  # fmt: skip
    (tmp_path / "latency").mkdir()

    def store(name, allocations, compiled=False):
        points = [{"allocation": f"{a}*2", "ms_per_image": 1.0} for a in allocations]
        content = {**setting, "compile": compiled, "points": points}
        (tmp_path / "latency" / f"{name}.json").write_text(json.dumps(content))

    def of(wanted):
        keys = [timing_key(setting, f"{a}*2") for a in wanted]
        found = tables.latencies(tmp_path, keys)
        return [Path(found[key]["timing_source"]).stem for key in keys]

    return store, of


def test_times_that_are_compared_are_of_one_file_if_one_has_them(sources):
    store, of = sources
    store("many", "ABCDE")
    store("few", "AF")
    assert of("AF") == ["few", "few"]
    assert of("ABF") == ["many", "many", "few"]
    assert of("A") == ["many"]


def test_compiled_times_count_unless_others_have_more_of_what_is_compared(sources):
    store, of = sources
    store("many", "ABCDE")
    store("compiled", "AB", compiled=True)
    assert of("ABC") == ["many"] * 3
    assert of("AB") == ["compiled"] * 2


def test_memory_stays_known_when_only_the_time_is_measured_again(tmp_path):
    setting = {
        "zoo": "fashion", "sampler": {"name": "ddim"}, "dtype": "float32", "device": "CPU",
        "guidance": {"scale": 1.5}, "batch_size": 8, "quantisation": None,
        "decoder": "first-stage", "compile": False,
    }  # fmt: skip
    (tmp_path / "latency").mkdir()
    for name, day, facts in (
        ("b", "2026-01-01", {"ms_per_image": 5.0, "peak_rss_mb": 900.0}),
        ("a", "2026-01-02", {"ms_per_image": 4.0}),
    ):
        content = {**setting, "time": day, "points": [{"allocation": "A*2", **facts}]}
        (tmp_path / "latency" / f"{name}.json").write_text(json.dumps(content))
    (known,) = tables.latencies(tmp_path).values()
    assert (known["ms_per_image"], known["peak_rss_mb"]) == (4.0, 900.0)
    assert [Path(known[name]).stem for name in ("timing_source", "memory_source")] == ["a", "b"]


def test_what_stores_no_samples_does_not_mind_the_shards_that_are_there(tmp_path):
    config = compose("latency", f"runs={tmp_path}", "sampler.steps=2", "allocations=[DiT-S*2]")
    zoo = build.load_zoo(config, torch.device("cpu"))
    (run,) = latency.allocations(config, zoo)
    path = tmp_path / "samples" / run.id
    ShardFolder(path, run.settings, config.shard_size + 1).mark(1)
    (again,) = latency.allocations(config, zoo)
    assert again.settings == run.settings
