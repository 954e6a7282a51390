"""Sweeps: what points they have, that points sampled together are what they are alone, failures."""

import functools
import json
import shutil

import hydra
import pytest
import torch
from omegaconf import OmegaConf

import models
from eval import experiments, overrides, terminal
from eval.estimate import Costs, cost
from eval.evaluator import Evaluator
from eval.images import open_images
from eval.metrics import METRICS, Metric
from eval.paper import tables
from eval.paper.page import record_table
from eval.paper.points import Planner
from eval.paper.tradeoffs import tradeoffs
from models.errors import InputError
from scripts import cli, sweep
from stitch.cost import CostTable
from stitch.runs import build, devices, shard_file
from stitch.runs.generate import sample_missing
from stitch.runs.grouped import groups
from stitch.runs.run import Run
from stitch.runs.shards import folder_digest
from tests import commands

FEW = [
    "sampler.steps=4", "allocation.denoisers=[DiT-S,DiT-B]", "num_images=12", "batch_size=3",
    "shard_size=6", "eval.metrics=[fid,is]",
]  # fmt: skip


compose = functools.partial(commands.compose, "sweep")


def points(folder, *overrides, shares=(0, 0.5, 0.75, 1), zoo=None):
    configs = [
        compose(*FEW, f"runs={folder}", f"allocation.small={share}", *overrides) for share in shares
    ]
    return [build.create(c, zoo or build.load_zoo(c, torch.device("cpu"))) for c in configs]


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(compose(*FEW).eval, torch.device("cpu"))


def store_of(folder):
    return experiments.record_store(OmegaConf.create({"runs": str(folder)}))


def test_the_points_of_a_sweep_are_all_combinations_in_order():
    assert overrides.expand(["num_images=9", "guidance.scale=1.5,2", "sampler=ddim,ddpm"]) == [
        ["num_images=9", "guidance.scale=1.5", "sampler=ddim"],
        ["num_images=9", "guidance.scale=1.5", "sampler=ddpm"],
        ["num_images=9", "guidance.scale=2", "sampler=ddim"],
        ["num_images=9", "guidance.scale=2", "sampler=ddpm"],
    ]
    lists = overrides.expand(["allocation.fractions=[0.5,0.5],[1,0]"])
    assert lists == [["allocation.fractions=[0.5,0.5]"], ["allocation.fractions=[1,0]"]]


@pytest.mark.parametrize(
    "text, values",
    [
        ("0,0.1,...,1", "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1"),
        ("10,20,...,50", "10,20,30,40,50"),
        ("1,0.75,...,0", "1,0.75,0.5,0.25,0"),
        ("0,0.1,...,0.3,1", "0,0.1,0.2,0.3,1"),
        ("0.1,0.2", "0.1,0.2"),
    ],
)
def test_three_dots_are_written_out_exactly(text, values):
    assert overrides.fill_in(f"a={text}") == f"a={values}"


@pytest.mark.parametrize("text", ["0,0.3,...,1", "0,0,...,1", "1,2,...,0"])
def test_three_dots_that_lead_nowhere_are_refused(text):
    with pytest.raises(InputError, match="write the values out"):
        overrides.fill_in(f"allocation.small={text}")


def test_only_runs_that_differ_in_nothing_but_the_allocation_are_grouped(tmp_path):
    alike = points(tmp_path, "sampler=dpm_solver", "sampler.history=restart")
    others = points(tmp_path, shares=[0.5]) + points(tmp_path, "seed=1", shares=[0.5])
    others += points(tmp_path, "guidance.scale=2", shares=[0.5])
    found = groups([*alike, *others])
    assert [len(group) for group in found] == [4, 1, 1, 1]
    # Depth first: neighbours have most in common.
    assert [str(run.allocation) for run in found[0]] == [
        "DiT-B*4", "DiT-S*2+DiT-B*2", "DiT-S*3+DiT-B*1", "DiT-S*4",
    ]  # fmt: skip


def test_points_made_together_have_the_images_and_metrics_of_points_made_alone(tmp_path, evaluator):
    together = points(tmp_path / "together")
    assert experiments.make_records(together, evaluator, store_of(tmp_path / "together")) == {}
    for run in points(tmp_path / "alone"):
        store = store_of(tmp_path / "alone")
        assert experiments.make_records([run], evaluator, store) == {}
        alone = experiments.stored_record(run, evaluator, store)
        shared = experiments.stored_record(run, evaluator, store_of(tmp_path / "together"))
        assert shared["metrics"] == alone["metrics"]
        digest = shared["provenance"]["images_sha256"]
        assert digest == alone["provenance"]["images_sha256"]
        assert digest == folder_digest(run.samples, run.num_images)
        assert alone["cost"]["ms_per_image"] > 0
        # A time that sharing made shorter is not given out as this run's.
        assert ("ms_per_image" in shared["cost"]) == (str(run.allocation) in FIRST_OF_THEIR_KIND)


FIRST_OF_THEIR_KIND = ("DiT-B*4", "DiT-S*2+DiT-B*2")


@pytest.fixture
def read(monkeypatch):
    """The shards that are read, once for each time."""
    paths, load = [], shard_file.load
    monkeypatch.setattr(shard_file, "load", lambda path: paths.append(path) or load(path))
    return paths


@pytest.mark.parametrize("shares", [(0.5,), (0, 0.5, 1)])
def test_between_sampling_and_metrics_a_shard_is_read_once(shares, tmp_path, evaluator, read):
    made = points(tmp_path, shares=shares)
    assert experiments.make_records(made, evaluator, store_of(tmp_path)) == {}
    once = {run.samples.shard_path(shard) for run in made for shard in (0, 1)}
    assert len(read) == len(once) and set(read) == once
    read.clear()
    assert experiments.make_records(made, evaluator, store_of(tmp_path)) == {}
    assert len(read) == len(once) and set(read) == once  # compared with their records


def test_a_shard_damaged_after_sampling_gives_no_number(tmp_path, evaluator, monkeypatch):
    sampled = experiments.sample_together

    def harm(runs):
        found = sampled(runs)
        path = runs[0].samples.shard_path(1)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        return found

    monkeypatch.setattr(experiments, "sample_together", harm)
    monkeypatch.setattr(Evaluator, "_metrics", None)
    (run,) = points(tmp_path, shares=[0.5])
    (reason,) = experiments.make_records([run], evaluator, store_of(tmp_path)).values()
    assert "lacks a shard with 6 of 12 images" in reason and "000001.npz is damaged" in reason
    assert list(store_of(tmp_path).all()) == []


@pytest.fixture(scope="module")
def stored(tmp_path_factory, evaluator):
    """The records of four points whose images are stored, by allocation, and their folder."""
    folder = tmp_path_factory.mktemp("stored")
    assert experiments.make_records(points(folder), evaluator, store_of(folder)) == {}
    return {record["run"]["allocation"]: record for record in store_of(folder).all()}, folder


def names(folder):
    return {path.name for path in (folder / "records").iterdir()}


def test_images_that_are_not_stored_give_the_same_records(stored, tmp_path, evaluator, caplog):
    caplog.set_level("INFO")
    expected, folder = stored
    store = store_of(tmp_path)
    assert experiments.make_records(points(tmp_path), evaluator, store, False) == {}
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {
        tmp_path / "records" / name for name in names(folder)
    }
    assert "shared beginnings saved 120 of 384 network evaluations" in caplog.text
    for record in store.all():
        other = expected[record["run"]["allocation"]]
        assert record["metrics"] == other["metrics"]
        for name in ("images_sha256", "image_hashes_sha256"):
            assert record["provenance"][name] == other["provenance"][name]
        assert record["provenance"]["images_stored"] is False
        assert "images_stored" not in other["provenance"]
        assert ("ms_per_image" in record["cost"]) == ("ms_per_image" in other["cost"])
    caplog.clear()
    assert experiments.make_records(points(tmp_path), evaluator, store, False) == {}
    assert caplog.text.count("is recorded already") == 4


@pytest.mark.parametrize("size", [1, 5, 7])
def test_batches_of_features_need_not_fit_shards(size, tmp_path):
    evaluator = Evaluator(compose(*FEW, f"eval.batch_size={size}").eval, torch.device("cpu"))
    metrics = []
    for store_images in (True, False):
        (run,) = points(tmp_path / str(store_images), shares=[0.5])
        store = store_of(tmp_path / str(store_images))
        assert experiments.make_records([run], evaluator, store, store_images) == {}
        metrics.append(experiments.stored_record(run, evaluator, store)["metrics"])
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("there", [(0, 1), (1,), ()])
def test_images_that_are_stored_are_used_though_none_is_to_be(
    there, stored, tmp_path, evaluator, monkeypatch
):
    (run,) = points(tmp_path, shares=[0.5])
    whole = points(stored[1], shares=[0.5])[0].samples
    shutil.copytree(whole.path, run.samples.path)
    for shard in {0, 1} - set(there):
        path = run.samples.shard_path(shard)
        path.unlink() if shard else path.write_bytes(path.read_bytes()[:-9])
    before = {path: path.read_bytes() for path in run.samples.path.iterdir()}
    made, walk = [], Run.launch
    monkeypatch.setattr(
        Run, "launch", lambda run, indices, wrappers: made.extend(indices) or walk(run, indices)
    )
    assert experiments.make_records([run], evaluator, store_of(tmp_path), False) == {}
    assert made == [i for shard in {0, 1} - set(there) for i in range(6 * shard, 6 * shard + 6)]
    assert {path: path.read_bytes() for path in run.samples.path.iterdir()} == before
    record = experiments.stored_record(run, evaluator, store_of(tmp_path))
    assert record["metrics"] == stored[0][str(run.allocation)]["metrics"]
    assert ("images_stored" in record["provenance"]) == (len(there) < 2)


def farthest(inputs):
    """Made up: the largest distance of a sample to its nearest reference."""
    distances = torch.cdist(inputs.sample["features"], inputs.reference)
    return distances.min(1).values.max().item()


def test_a_new_metric_is_one_row_and_one_function(tmp_path, monkeypatch):
    row = Metric("far", "Far", 1, "features", "neighbours", "lower", farthest)
    monkeypatch.setitem(METRICS, "far", row)
    (run,) = points(tmp_path, shares=[0.5])
    device, wanted = torch.device("cpu"), compose(*FEW, "eval.metrics=[fid,far]").eval
    evaluator, store = Evaluator(wanted, device), store_of(tmp_path)
    assert experiments.make_records([run], evaluator, store) == {}
    record = experiments.stored_record(run, evaluator, store)
    assert list(record["metrics"]) == ["fid", "far"] and record["metrics"]["far"] > 0
    with pytest.raises(InputError, match="num_images=3 .*too few for far with eval.neighbours=3"):
        evaluator.check(open_images(run.samples.path), 3)
    # Tables, the report and the list of a figure's numbers show it.
    assert (tables.heading("far"), tables.decimals("far")) == ("Far", 1)
    page = record_table(tradeoffs(OmegaConf.create({"runs": str(tmp_path)}), run.zoo))
    assert ">Far</button>" in page and f"{record['metrics']['far']:.4f}" in page
    line = {"allocation": "S", "gmacs_per_image": 1.0, "ms_per_image": None, **record["metrics"]}
    head, values = terminal.listing([line])
    assert head.split() == ["allocation", "FID", "Far", "GMACs", "ms/image"]
    assert values.split()[2] == f"{record['metrics']['far']:.3f}"
    head, values = terminal.summary({run: record})
    assert head.split()[-2:] == ["run", "setting"]
    assert f" {run.id} fashion: DDIM 4 steps, w = 1.5, 12 images" in values


def test_only_missing_shards_of_missing_points_are_made(tmp_path, evaluator):
    made = points(tmp_path, shares=(0, 0.5))
    other = made[1]
    experiments.make_records(made, evaluator, store_of(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.npz")}
    lost = other.samples.shard_path(1)
    lost.unlink()
    store_of(tmp_path).path(other.settings, evaluator.protocol(12)).unlink()
    experiments.make_records(made, evaluator, store_of(tmp_path))
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.npz")}
    assert after.keys() == before.keys()
    assert [path for path in after if after[path] != before[path]] == [lost]


@pytest.mark.parametrize("store_images", [True, False])
def test_a_point_that_fails_is_named_and_the_rest_is_finished(store_images, tmp_path, evaluator):
    zoo = models.load_zoo("fashion")
    with torch.no_grad():
        next(zoo.denoisers["DiT-B"].parameters()).fill_(float("nan"))
    made = points(tmp_path, zoo=zoo)
    failures = experiments.make_records(made, evaluator, store_of(tmp_path), store_images)
    assert failures.keys() == {run for run in made if run.allocation.steps[3] != "DiT-S"}
    assert all("DiT-B at step" in reason for reason in failures.values())
    assert any(reason.startswith("DiT-S*2+DiT-B*2: ") for reason in failures.values())
    (record,) = store_of(tmp_path).all()
    assert record["run"]["allocation"] == "DiT-S*4"


@pytest.mark.parametrize("hashes", ["both", "the first ones"])
def test_a_sweep_with_failures_lists_them_and_exits_with_1(hashes, tmp_path, caplog):
    run, *_ = points(tmp_path, shares=[0])
    sample_missing(run)
    config = compose(*FEW, f"runs={tmp_path}", "allocation.small=0")
    sweep.sweep([config])
    (path,) = (tmp_path / "records").glob("*.json")
    record = json.loads(path.read_text())
    record["provenance"] |= {"images_sha256": "0" * 64, "commit": "abc123"}
    if hashes == "the first ones":
        del record["provenance"]["image_hashes_sha256"]
    del record["sha256"]  # as a record of other images would have another
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit) as error:
        sweep.sweep([config, compose(*FEW, f"runs={tmp_path}", "allocation.small=1")])
    assert error.value.code == 1
    assert "1 of 2 points failed" in caplog.text
    assert f"{path} was made by commit abc123 of other images" in caplog.text
    assert len(list((tmp_path / "records").glob("*.json"))) == 2


def test_a_point_whose_record_lacks_a_metric_fails_and_the_others_go_on(tmp_path, caplog):
    caplog.set_level("INFO")
    one, other = (compose(*FEW, f"runs={tmp_path}", f"allocation.small={n}") for n in (0, 1))
    sweep.sweep([one])
    (path,) = (tmp_path / "records").glob("*.json")
    for config in (one, other):
        config.eval.metrics = ["fid", "kid"]
    with pytest.raises(SystemExit) as error:
        sweep.sweep([one, other])
    assert error.value.code == 1
    assert "1 of 2 points failed" in caplog.text
    assert f"DiT-B*4: {path} has no kid, and records are immutable" in caplog.text
    (made,) = (r for r in store_of(tmp_path).all() if r["run"]["allocation"] == "DiT-S*4")
    assert made["metrics"].keys() == {"fid", "kid"}


def test_a_point_that_fails_hides_none_of_the_same_run_with_more_images(tmp_path, caplog):
    caplog.set_level("INFO")
    few, many = (
        compose(*FEW, f"runs={tmp_path}", "allocation.small=0", f"num_images={count}")
        for count in (6, 12)
    )
    sweep.sweep([few])
    for config in (few, many):
        config.eval.metrics = ["fid", "kid"]
    with pytest.raises(SystemExit):
        sweep.sweep([few, many])  # the record of six lacks a metric
    assert "1 of 2 points failed" in caplog.text
    assert "KID" in caplog.text and "12 images" in caplog.text


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    config = compose(*FEW, f"runs={tmp_path / 'file' / 'runs'}")
    with pytest.raises(InputError, match="runs=.*Not a directory"):
        sweep.sweep([config])


def test_a_dry_run_counts_runs_evaluations_and_hours_without_weights(tmp_path):
    config = compose(
        "zoo=imagenet256-dit", "sampler.steps=100", f"runs={tmp_path}",
        "datasets.imagenet256.throughput.macs_per_second=1e12",
    )  # fmt: skip
    zoo = build.load_zoo(config, torch.device("cpu"))
    made = []
    for share in range(11):
        config.allocation.small = share / 10
        made.append(build.create(config, zoo, planning=True))
    spent = cost(made[1:], Costs(config))
    # Ten shares of DiT-S; beginnings are computed once, and DiT-XL's steps behind each.
    assert spent.evaluations == 2 * 5000 * 10 * 100
    assert spent.shared == 2 * 5000 * (100 + 450)
    assert spent.macs == 2 * 5000 * (100 * zoo.macs("DiT-S") + 450 * zoo.macs("DiT-XL"))
    hours = [spent.macs / 1e12 / 3600 / factor for factor in (1, 5, 10)]  # 10 shards, at 8: two
    assert spent.hours == pytest.approx(hours)


def test_a_dry_run_over_numbers_of_images_misses_those_without_a_record(tmp_path, evaluator):
    """And costs images that several points have once."""
    config, store = compose(*FEW, f"runs={tmp_path}"), store_of(tmp_path)
    few, some, many = (
        points(tmp_path, f"num_images={count}", shares=[0])[0] for count in (6, 12, 18)
    )
    assert experiments.make_records([few], evaluator, store) == {}
    *_, total, _, _ = experiments.plan([many, few, some], evaluator, store, config)
    runs, done, missing, evaluations = total.removeprefix(" in all").split()[:4]
    assert (runs, done, missing) == ("3", "1", "2")
    assert int(evaluations) == cost([many], Costs(config)).evaluations == 18 * 2 * 4


def test_sweeps_and_figures_state_the_same_cost_of_the_same_runs(tmp_path):
    common = ["zoo=imagenet256-dit", f"runs={tmp_path}", "protocol=full"]
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):
        figures = cli.compose("figures", ["figure=fig01", *common])
        planner = Planner(figures, cli.compose, [])
        drawn = [
            point.run for point in planner.points(OmegaConf.to_container(figures.figure.fig01))
        ]
        swept = [
            cli.compose("sweep", [
                "sampler.steps=100", f"allocation.small={share / 10}", *common[:2],
                "allocation.denoisers=[DiT-S,DiT-XL]",
            ])
            for share in range(11)
        ]  # fmt: skip
    zoo = build.load_zoo(swept[0], torch.device("cpu"))
    runs = [build.create(config, zoo, planning=True) for config in swept]
    assert {run.id for run in runs} == {run.id for run in drawn}
    assert cost(runs, Costs(swept[0])) == cost(drawn, Costs(figures))


def measured(batch, seconds, rest=0.0, **facts):
    """A cost table of steps that take so many seconds, measured on this machine."""
    usual = {
        "zoo": "fashion", "dtype": "float32", "device": devices.name(torch.device("cpu")),
        "quantisation": None, "compile": False, "decoder": "first-stage", "time": "2026-01-02",
    }  # fmt: skip
    return CostTable(batch, {(name,): s for name, s in seconds.items()}, rest, {**usual, **facts})


def hours_by(tables, tmp_path, *overrides):
    """Hours of a run of DiT-S and DiT-B, and what they are said to be of, by measured tables.

    Args:
        tables: name of the file -> its table.
    """
    (run,) = points(tmp_path, *overrides, shares=[0.5])
    (tmp_path / "costs").mkdir(exist_ok=True)
    for name, table in tables.items():
        (tmp_path / "costs" / f"{name}.json").write_text(json.dumps(table.to_json()))
    costs = Costs(compose(*FEW, f"runs={tmp_path}"))
    return cost([run], costs).hours[0], costs.sources[0]


def test_a_measured_cost_table_counts_before_a_stated_throughput(tmp_path):
    table = measured(2, {"DiT-S": 2.0, "DiT-B": 6.0}, 4.0)
    assert hours_by({}, tmp_path)[0] < 1
    # Guided: four evaluations of each, of 1 s and 3 s an image, and 2 s of all else.
    hours, source = hours_by({"measured": table}, tmp_path)
    assert hours == pytest.approx(12 * (4 + 12 + 2) / 3600)
    assert source.endswith("by its cost table of float32, decoder first-stage, batch 2")


@pytest.mark.parametrize(
    "overrides, facts, words",
    [
        (["compile=true"], {"compile": True}, "float32, compiled, decoder first-stage"),
        (["quantisation=int8"], {"quantisation": "int8"}, "float32, int8, decoder first-stage"),
        (["decoder=preview"], {"decoder": "preview"}, "float32, decoder preview"),
    ],
)
def test_hours_are_by_a_cost_table_of_the_same_settings(overrides, facts, words, tmp_path):
    steps = {"DiT-S": 3600.0, "DiT-B": 3600.0}
    other = {"other": measured(3, steps)}  # of the very batch size
    assert hours_by(other, tmp_path, *overrides)[0] < 1
    same = {"same": measured(1, steps, **facts)}
    hours, source = hours_by(other | same, tmp_path, *overrides)
    assert hours == pytest.approx(12 * 2 * 4)
    assert source.endswith(f"by its cost table of {words}, batch 1")


@pytest.mark.parametrize("newest", ["a", "b"])
def test_of_cost_tables_of_one_batch_size_the_newest_counts(newest, tmp_path):
    tables = {
        name: measured(3, {"DiT-S": seconds, "DiT-B": seconds}, time=day)
        for name, seconds, day in (
            (newest, 3600.0, "2026-01-02"),
            ("ab".replace(newest, ""), 7200.0, "2026-01-01"),
        )
    }
    assert hours_by(tables, tmp_path)[0] == pytest.approx(12 * 2 * 4 / 3)
