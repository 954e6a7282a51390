"""Claims of the paper: each is once true and once false of made-up records, and may be neither."""

import math
import shlex
from dataclasses import replace
from types import SimpleNamespace

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from eval.paper import claims, training_claims
from eval.paper.claims import Claim, judge, page
from eval.paper.measured import Data
from eval.paper.points import Planner, Point
from scripts import cli
from stitch import Allocation
from tests import commands

# The real ones: the numbers of the tables below are close to them, on either side.
THRESHOLDS = OmegaConf.load(cli.CONFIGS / "claims.yaml").thresholds
CLAIMS = [*claims.CLAIMS, *training_claims.CLAIMS]
BY_STATEMENT = {claim.statement: claim for claim in CLAIMS}


class Table(Data):
    """The points and records of made-up figures."""

    def __init__(self, **figures):
        self.thresholds, self.made_up = THRESHOLDS, figures

    def points(self, figure):
        return self.made_up[figure]


def point(fractions, panel=0, series=0, sampler="ddim", steps=10, scale=1.5):
    names = ("DiT-S", "DiT-XL") if len(fractions) == 2 else ("DiT-S", "DiT-B", "DiT-XL")
    allocation = Allocation.from_fractions(dict(zip(names, fractions, strict=True)), 10)
    settings = {"sampler": {"name": sampler, "steps": steps}, "guidance": {"scale": scale}}
    # Of few images in a figure's first panel, of many in its second one.
    run = SimpleNamespace(allocation=allocation, settings=settings, num_images=5000 * 10**panel)
    return Point(panel, series, names[0], tuple(fractions), {}, run)


def record(fid=9.0, macs=None, timing=None, **metrics):
    cost = {} if macs is None else {"macs_per_image": macs}
    return {"metrics": {"fid": fid, **metrics}, "cost": cost, "timing": timing or {}}


def line(fids, **where):
    """Share of the small denoiser -> FID, as points and records."""
    return [(point((share, 1 - share), **where), record(fid)) for share, fid in fids.items()]


def timed(milliseconds):
    """Share -> milliseconds per image."""
    facts = {"device": "A", "batch_size": 8}
    return [
        (point((share, 1 - share)), record(timing={"ms_per_image": value, **facts}))
        for share, value in milliseconds.items()
    ]


def rises(*percent):
    """The lines of 5, 10, ... steps whose FIDs rise by so much at a share of 40 %."""
    lines = [
        line({0: 10.0, 0.4: 10 + 0.1 * rise, 1: 30.0}, steps=5 * (i + 1))
        for i, rise in enumerate(percent)
    ]
    return [one for of_a_line in lines for one in of_a_line]


def samplers(*percent):
    return [
        one
        for name, rise in zip(("ddpm", "ddim", "dpm_solver"), percent, strict=True)
        for one in line({0: 10.0, 0.4: 10 + 0.1 * rise, 1: 30.0}, sampler=name)
    ]


def scales(*percent):
    """Lines without the medium denoiser, and beside each a poor point of it at the same share."""
    found = []
    for scale, rise in zip((1.5, 2.0, 3.0), percent, strict=True):
        for share, fid in {0: 10.0, 0.4: 10 + 0.1 * rise, 1: 30.0}.items():
            found.append((point((share, 0, 1 - share), scale=scale), record(fid)))
        found.append((point((0.4, 0.6, 0), scale=scale), record(99.0)))
    return found


def orders(*fids):
    return [(point((0.5, 0.5), series=i), record(fid)) for i, fid in enumerate(fids)]


def cloud(*rows):
    """(share of the medium denoiser, MACs, FID) of every point."""
    return [(point((0, share, 1 - share)), record(fid, macs)) for share, macs, fid in rows]


def trajectories(*similarities):
    """Of the large and the small denoiser, so similar after every step; and of others, opposite."""
    steps = torch.tensor(similarities)
    large, aside = torch.zeros(2, len(steps), 2, 1, 2, 2)
    large[..., 0, 0] = aside[..., 1, 1] = 1
    scale = steps.view(-1, 1, 1, 1, 1)
    small = scale * large + (1 - scale**2).sqrt() * aside
    pairs = ((large, small), (large, -large), (small, -small))
    return [(point((1, 0)), (states, [])) for pair in pairs for states in pair]


def spectrum(*bands):
    """A trajectory; for each frequency, from the lowest on, its log amplitude after every step."""
    size = 2 * len(bands)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    states = sum(
        torch.tensor(band).exp().view(-1, 1, 1) * torch.cos(2 * math.pi * k * (row + column) / size)
        for k, band in enumerate(bands)
    )
    return [(point((1, 0)), (states[:, None, None], []))]


def against_fewer_steps(stitched, few):
    """MACs -> FID of T-Stitch in both panels, and of fewer steps by guidance scale."""
    found = []
    for panel, scale in enumerate((1.5, 2.0)):
        where = dict(panel=panel, scale=scale)
        found += [(point((0.5, 0.5, 0), **where), record(f, m)) for m, f in stitched.items()]
        found += [
            (point((1, 0), series=1, steps=macs, **where), record(fid, macs))
            for macs, fid in few[scale].items()
        ]
    return found


def ages(*percent):
    """The lines of small denoisers of different age whose FIDs rise by so much at 40 %."""
    return [
        (replace(one, first=f"DiT-S@{i}k"), known)
        for i, rise in enumerate(percent)
        for one, known in line({0: 10.0, 0.4: 10 + 0.1 * rise, 1: 30.0}, series=i)
    ]


def against_stitches(stitched, others):
    """(MACs, FID, IS) of T-Stitch, and of model stitching."""
    return [
        (point((0.5, 0.5), series=series), record(fid, macs, **{"is": score}))
        for series, rows in enumerate((stitched, others))
        for macs, fid, score in rows
    ]


def few_and_many(few, many):
    shares = [i / 10 for i in range(11)]
    return [
        one
        for panel, fids in enumerate((few, many))
        for one in line(dict(zip(shares, fids, strict=True)), panel=panel)
    ]


def precision_and_recall(*rows):
    """(share, precision, recall)"""
    return [
        (point((share, 1 - share)), record(9 + share, precision=precision, recall=recall))
        for share, precision, recall in rows
    ]


def memory(small, large, both, kind="peak_allocated_mb"):
    """Megabytes; of parameters, the large denoiser has ten times those of the small one."""
    rows = ((small, 1), (large, 10), (both, 11))
    return [
        (point((0.5, 0.5), series=i), {kind: megabytes, "params": params, "device": "A"})
        for i, (megabytes, params) in enumerate(rows)
    ]


# Statement -> the records of which it is true, what is then said, and those of which it is false.
CASES = {
    "the first 40 % of DiT-XL's steps can be DiT-S's without loss of FID": (
        dict(fig01=line({1: 30.0, 0: 10.0, 0.6: 11.0, 0.4: 10.29, 0.2: 9.0})),
        "free up to 40%; FID 10.290 at 40%, 10.000 at 0",
        dict(fig01=line({0: 10.0, 0.2: 9.0, 0.4: 10.31, 0.6: 10.0, 1: 30.0})),
    ),
    "which is 1.5 times as fast": (
        dict(fig01=timed({0: 15.0, 0.4: 10.0, 1: 1.0})),
        "1.50x at 40 %",
        dict(fig01=timed({0: 13.9, 0.4: 10.0, 1: 1.0})),
    ),
    "LDM: the first half can be LDM-S's without loss of FID": (
        dict(table1=line({0: 10.0, 0.4: 10.2, 0.5: 10.29, 1: 30.0})),
        "free up to 50%; FID 10.290 at 50%, 10.000 at 0",
        dict(table1=line({0: 10.0, 0.4: 10.2, 0.5: 10.31, 1: 30.0})),
    ),
    "U-ViT: the first 40 % can be DiT-S's, another family, without loss of FID": (
        dict(table5=line({0: 10.0, 0.4: 10.29, 0.5: 10.5, 1: 30.0})),
        "free up to 40%; FID 10.290 at 40%, 10.000 at 0",
        dict(table5=line({0: 10.0, 0.2: 10.29, 0.4: 10.31, 1: 30.0})),
    ),
    "at 50 %, small to large is the best order": (
        dict(table7=orders(19.0, 12.9, 27.6, 10.1)),
        "interleaved 19.000, decreasing probability 12.900, large to small 27.600, "
        "small to large 10.100",
        dict(table7=orders(19.0, 10.0, 27.6, 10.1)),
    ),
    "a medium denoiser improves the frontier": (
        dict(fig06=cloud((0, 1, 9), (0, 2, 8), (0.5, 3, 7), (0, 4, 6), (0.5, 5, 6))),
        "1 of 4 points of the FID frontier over MACs",
        dict(fig06=cloud((0, 1, 9), (0, 2, 8), (0.5, 3, 7), (0, 4, 6), (0.5, 5, 6), (0, 6, 5))),
    ),
    "40 % is safe for DDPM, DDIM and DPM-Solver++": (
        dict(fig08=samplers(-5, 0, 14)),
        "ddpm 10 steps -5%, ddim 10 steps +0%, dpm_solver 10 steps +14%",
        dict(fig08=samplers(-5, 16, -5)),
    ),
    "40 % is safe for few and many steps": (
        dict(fig09=rises(14, -3)),
        "ddim 5 steps +14%, ddim 10 steps -3%",
        dict(fig09=rises(-3, 16)),
    ),
    "40 % is safe at guidance 1.5, 2 and 3": (
        dict(fig12=scales(-3, 14, 0)),
        "w = 1.5 -3%, w = 2 +14%, w = 3 +0%",
        dict(fig12=scales(-3, 14, 16)),
    ),
    "latents of two sizes agree early and part late": (
        dict(fig03=trajectories(1.0, 0.96, 0.8, 0.9)),
        "at least 0.960 in the first half, 0.900 at the end (DiT-XL and DiT-S)",
        dict(fig03=trajectories(0.94, 1.0, 0.8, 0.9)),
    ),
    "low frequencies come first": (
        dict(fig11=spectrum([0.0, 1.1, 1.5, 2.0], [0.0, 3.0, 3.0, 3.0], [4.0, 3.1, 2.5, 2.0])),
        "half of the change of the lowest band by step 2, of the highest by step 3 of 4",
        dict(fig11=spectrum([0.0, 0.9, 1.5, 2.0], [0.0, 0.0, 0.0, 3.0], [4.0, 2.9, 2.5, 2.0])),
    ),
    "competitive with fewer steps of the large denoiser": (
        dict(fig15=against_fewer_steps({2: 9.0, 4: 7.0}, {1.5: {1: 1.0, 4: 7.0}, 2.0: {5: 6.9}})),
        "as good or better at 1 of 2 step counts; fewer steps of the large one are better at "
        "5 steps, w = 2",
        dict(
            fig15=against_fewer_steps(
                {2: 9.0, 4: 7.0}, {1.5: {3: 8.9, 4: 7.0}, 2.0: {2: 8.0, 4: 6.9}}
            )
        ),
    ),
    "T-Stitch dominates model stitching": (
        dict(
            fig10=against_stitches([(1, 9.0, 3.0), (4, 5.0, 6.0)], [(1, 9.0, 3.0), (5, 6.0, 5.0)])
        ),
        "as good for no more MACs as 2 of 2 stitches in FID, 2 in IS",
        dict(
            fig10=against_stitches([(1, 9.0, 3.0), (4, 5.0, 6.0)], [(1, 9.0, 3.1), (3, 6.0, 2.0)])
        ),
    ),
    "FID of 5,000 and of 50,000 images agree in order": (
        dict(fig13=few_and_many(range(11), [1, 2, 5, 0, 3, 4, 6, 7, 8, 9, 10])),
        "Spearman correlation 0.90 of 5,000 and 50,000 images",
        dict(fig13=few_and_many(range(11), [1, 2, 5, 0, 3, 4, 7, 6, 8, 9, 10])),
    ),
    "precision and recall hardly change up to 40 %": (
        dict(table9=precision_and_recall((0, 0.81, 0.74), (0.4, 0.781, 0.80), (1, 0.5, 0.5))),
        "precision 0.810 to 0.781, recall 0.740 to 0.800 at 40 %",
        dict(table9=precision_and_recall((0, 0.81, 0.74), (0.4, 0.90, 0.709), (1, 0.8, 0.8))),
    ),
    "fine-tuning the later denoisers on their own timesteps is better than on all": (
        dict(table6=orders(16.5, 16.0, 13.4)),
        "pretrained 16.500, all timesteps 16.000, their own 13.400",
        dict(table6=orders(16.5, 16.0, 16.1)),
    ),
    "a young DiT-S is enough for the first 40 %": (
        dict(fig18=ages(14, -3, 0)),
        "DiT-S@0k +14%, DiT-S@1k -3%, DiT-S@2k +0%",
        dict(fig18=ages(16, -3, 0)),
    ),
    "the overhead of a second denoiser is small": (
        dict(table8=memory(500, 1000, 1090)),
        "memory x1.09, parameters x1.10",
        dict(table8=memory(1100, 1000, 1110)),
    ),
}


def row(statement, **figures):
    """What is said of our numbers, and whether the claim holds."""
    claim = BY_STATEMENT[statement]
    found = judge(claim, Table(**figures))
    assert (found["statement"], found["reported"]) == (claim.statement, claim.reported)
    if "value" in found and found["holds"] == "yes":
        right = found["value"] >= found["limit"]
        assert right if found["better"] == "higher" else found["value"] <= found["limit"]
    return found["ours"], found["holds"]


def test_every_claim_has_a_case():
    assert sorted(CASES) == sorted(claim.statement for claim in CLAIMS)


@pytest.mark.parametrize("statement", [claim.statement for claim in CLAIMS])
def test_a_claim_is_once_true_and_once_false(statement):
    true, text, false = CASES[statement]
    assert row(statement, **true) == (text, "yes")
    assert row(statement, **false)[1] == "no"


@pytest.mark.parametrize(
    "statement, figures",
    [
        # A share that is free again behind one that is not.
        (
            "the first 40 % of DiT-XL's steps can be DiT-S's without loss of FID",
            dict(fig01=line({0: 10.0, 0.2: 10.31, 0.4: 10.0, 1: 30.0})),
        ),
        # Alike to the end: nothing parts.
        (
            "latents of two sizes agree early and part late",
            dict(fig03=trajectories(1.0, 0.96, 0.96, 0.97)),
        ),
        # All of them at once.
        (
            "low frequencies come first",
            dict(fig11=spectrum([0.0, 2.0, 3.0], [0.0, 1.0, 3.0], [0.0, 2.0, 3.0])),
        ),
        # Recall alone.
        (
            "precision and recall hardly change up to 40 %",
            dict(table9=precision_and_recall((0, 0.81, 0.74), (0.4, 0.70, 0.74), (1, 0.8, 0.8))),
        ),
        # Every number of steps costs less than the cheapest allocation: nothing is compared.
        (
            "competitive with fewer steps of the large denoiser",
            dict(fig15=against_fewer_steps({2: 9.0}, {1.5: {1: 9.9}, 2.0: {1: 9.9}})),
        ),
    ],
)
def test_a_claim_is_false_in_other_ways_too(statement, figures):
    assert row(statement, **figures)[1] == "no"


def test_memory_of_a_cpu_is_that_of_the_process():
    found = row(
        "the overhead of a second denoiser is small", table8=memory(500, 1000, 1090, "peak_rss_mb")
    )
    assert found == ("memory x1.09, parameters x1.10", "yes")


OF_A_PAIR = {
    "the first 40 % of DiT-XL's steps can be DiT-S's without loss of FID": "fig01",
    "40 % is safe for DDPM, DDIM and DPM-Solver++": "fig08",
    "40 % is safe for few and many steps": "fig09",
    "FID of 5,000 and of 50,000 images agree in order": "fig13",
    "precision and recall hardly change up to 40 %": "table9",
}


@pytest.mark.parametrize("statement", OF_A_PAIR)
@pytest.mark.parametrize("large", [0.56, 0.92])
def test_a_claim_about_a_pair_needs_the_large_one_to_be_the_better_one(statement, large):
    made_up = line({0: large, 0.4: 0.5, 1: 0.56}) + line({0: large, 0.4: 0.5, 1: 0.56}, panel=1)
    assert row(statement, **{OF_A_PAIR[statement]: made_up}) == (
        f"not testable here: FID {large:.3f} of DiT-XL alone is not below 0.560 of DiT-S alone",
        "not testable",
    )


def test_what_is_raised_for_another_reason_is_not_hidden():
    def broken(data):
        raise KeyError("fid")

    with pytest.raises(KeyError):
        judge(Claim("S", "R", broken), Table())


def test_the_page_says_no_in_bold_and_names_what_was_not_decided():
    claims = [
        {"statement": "S", "reported": "R", "ours": "0.1", "holds": holds}
        for holds in ("yes", "no", "not testable")
    ]
    text = page({"about": "About.", "commit": "c", "claims": claims})
    assert text.startswith("About.\n\n| claim | paper | ours | holds |\n")
    assert [line.split("|")[-2].strip() for line in text.splitlines()[4:]] == [
        "yes", "**no**", "not testable",
    ]  # fmt: skip


# ---- records that are as they may be ----


@pytest.mark.parametrize(
    "statement, figures",
    [
        (
            "precision and recall hardly change up to 40 %",
            dict(table9=line({0: 10.0, 0.4: 10.0, 1: 30.0})),
        ),
        (
            "at 50 %, small to large is the best order",
            dict(table7=[(one, {**known, "metrics": {"precision": 0.8}})
                         for one, known in orders(4, 3, 2, 1)]),
        ),
    ],
)  # fmt: skip
def test_a_claim_about_a_metric_that_was_not_wanted_is_not_testable(statement, figures):
    name = {"table7": "fid", "table9": "precision"}[next(iter(figures))]
    found = row(statement, **figures)
    assert found == (f"not testable here: the records have no {name}", "not testable")


# ---- what is recorded, found as the command finds it ----


@pytest.fixture
def recorded(tmp_path):
    """``Data`` of a zoo without records, as ``scripts.claims`` makes it."""
    with hydra.initialize_config_dir(str(cli.CONFIGS.resolve()), version_base="1.3"):

        def make(*words):
            words = [*words, f"runs={tmp_path}"]
            config = cli.compose("claims", words)
            return Data(config, Planner(config, cli.compose, words))

        yield make


def store(data, figure, timing=None, **metrics):
    """Records of a figure's points; every value is a list, an entry for each point."""
    points = data.planner.points(data.figures[figure])
    timing = timing or [{}] * len(points)
    for i, (one, cost) in enumerate(zip(points, timing, strict=True)):
        data.evidence.store.add({
            "run": one.run.settings,
            "protocol": data.evidence.evaluator.protocol(one.run.num_images),
            "metrics": {name: values[i] for name, values in metrics.items()},
            "cost": cost,
        })  # fmt: skip


def judged(statement, data):
    found = judge(BY_STATEMENT[statement], data)
    return found["ours"], found["holds"]


def command_of(text):
    """The command, and its settings, of a number that was not measured."""
    python, _, module, *words = shlex.split(text.removeprefix("not measured: `").removesuffix("`"))
    assert python == "python"
    return module.removeprefix("scripts."), words


def test_what_was_not_measured_comes_with_the_command_that_measures_it(recorded, tmp_path):
    data = recorded("zoo=fashion")
    text, holds = judged("at 50 %, small to large is the best order", data)
    name, words = command_of(text)
    assert holds == "not measured"
    assert (name, words) == (
        "figures", ["figure=table7", "run=true", "zoo=fashion", f"runs={tmp_path}"]
    )  # fmt: skip
    assert cli.compose(name, words).figure.keys() == {"table7"}
    store(data, "table7", fid=[4.0, 3.0, 2.0, 1.0])
    assert judged("at 50 %, small to large is the best order", recorded("zoo=fashion")) == (
        "interleaved 4.000, decreasing probability 3.000, large to small 2.000, "
        "small to large 1.000",
        "yes",
    )


def test_the_command_for_what_was_not_measured_has_the_settings_that_were_asked_for(recorded):
    data = recorded(
        "zoo=fashion", "eval=dinov2", "eval.metrics=[fd_dinov2]", "figure.table7.runs.steps=10",
        "figure.fig05.runs.steps=20",
    )  # fmt: skip
    given = data.planner.given_text("table7")
    config = cli.compose("figures", ["figure=table7", *shlex.split(given)])
    assert config.eval == data.planner.config.eval
    assert config.figure.table7 == data.planner.config.figure.table7


def test_figures_list_their_series_in_the_order_that_claims_take_them_in(recorded):
    figures = recorded("zoo=fashion").figures
    assert [series["label"] for series in figures["table7"]["series"]] == [
        "interleave", "decreasing probability", "large to small", "small to large (T-Stitch)",
    ]  # fmt: skip
    assert figures["fig03"]["series"][0]["denoisers"] == ["large", "small"]
    assert [panel["runs"]["images"] for panel in figures["fig13"]["panels"]] == [5000, 50_000]
    assert len(figures["fig15"]["panels"]) == 2
    assert [series["label"] for series in figures["table6"]["series"]] == [
        "pretrained", "fine-tuned on all timesteps", "fine-tuned on their own",
    ]  # fmt: skip
    stitched, few = figures["fig15"]["series"]
    assert stitched["allocations"]["denoisers"] == ["small", "medium", "large"]
    assert few["allocations"]["denoisers"] == ["large"]


def test_records_that_say_no_macs_are_of_the_run_that_they_are_of(recorded):
    """A folder that ``scripts.evaluate`` measured has a record that does not know of networks."""
    data = recorded("zoo=fashion", "figure.fig06.series.0.allocations.resolution=2")
    store(data, "fig06", fid=[9.0, 8.0, 8.5, 7.0, 7.5, 9.5])
    known = data.points("fig06")
    assert {point.run.cost()["macs_per_image"] for point, _ in known} == {
        record["cost"]["macs_per_image"] for _, record in known
    }
    text, _ = judged("a medium denoiser improves the frontier", data)
    assert text.endswith("points of the FID frontier over MACs")


def test_latencies_that_were_not_measured_come_with_their_command(recorded):
    text, holds = judged("the overhead of a second denoiser is small", recorded("zoo=fashion"))
    name, words = command_of(text)
    assert (name, holds) == ("latency", "not measured")
    config = cli.compose(name, words)
    assert config.allocations == ["DiT-S*20", "DiT-XL*20", "DiT-S*10+DiT-XL*10"]
    assert (config.sampler.steps, config.guidance.scale) == (20, 1.5)


def test_latencies_with_a_preview_are_asked_for_with_it(recorded):
    text, _ = judged(
        "the overhead of a second denoiser is small", recorded("zoo=fashion", "decoder=preview")
    )
    name, words = command_of(text)
    assert (name, cli.compose(name, words).decoder) == ("latency", "preview")


MEASURED = {"device": "A", "batch_size": 100}


@pytest.mark.parametrize("other", [{}, {**MEASURED, "device": "B"}, {**MEASURED, "batch_size": 8}])
def test_times_that_lack_or_are_unlike_are_to_be_measured_together(recorded, other):
    data = recorded("zoo=fashion", "figure.fig01.series.0.allocations.resolution=5")
    timing = [{"ms_per_image": 20.0 - i, **MEASURED} for i in range(6)]
    timing[0] = other and {**timing[0], **other}
    store(data, "fig01", timing, fid=[9.0] * 6)
    text, holds = judged("which is 1.5 times as fast", data)
    name, words = command_of(text)
    assert (name, holds) == ("latency", "not measured")
    assert len(cli.compose(name, words).allocations) == 6


def test_memory_of_unlike_devices_is_to_be_measured_together(recorded):
    data = recorded("zoo=fashion")
    points = data.planner.points(data.figures["table8"])
    for one, device in zip(points, "AAB", strict=True):
        data.evidence.latencies[one.run.timing_key] = {
            "peak_rss_mb": 900.0, "params": 10, "device": device, "batch_size": 100,
        }  # fmt: skip
    assert judged("the overhead of a second denoiser is small", data)[1] == "not measured"


def test_a_claim_about_denoisers_that_a_data_set_does_not_have_is_not_testable(recorded):
    data = recorded("zoo=imagenette64")
    for statement in BY_STATEMENT:
        if statement.startswith(("LDM", "U-ViT")):
            family = {"LDM": "ldm", "U-ViT": "dit-uvit"}[statement.split(":")[0]]
            assert judged(statement, data) == (
                f"not testable here: imagenette64 has no denoisers of the family {family}",
                "not testable",
            )


def test_claims_of_chosen_figures_only_are_refused(tmp_path):
    words = ["zoo=fashion", "figure=fig01", f"runs={tmp_path}", f"claims={tmp_path}/claims.md"]
    line = commands.refusal("claims", *words)
    assert "figure=fig01 lacks table1, which a claim is about" in line
    assert "leave figure out" in line
    assert not (tmp_path / "claims.md").exists()
