"""From configs to runs: what determines the pixels and nothing else, with stable hashes."""

import json
import shlex
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

import models
from eval.paper import commands
from eval.speed import latency
from models import DenoiserSpec, cards
from models.classes import Classes
from models.errors import InputError
from models.zoo import CARDS
from stitch.runs import build
from stitch.runs.records import content_hash
from stitch.runs.run import timing_key
from tests.commands import compose

COSTS = {"DiT-S": 1, "DiT-B": 10, "DiT-XL": 100}


@pytest.fixture(scope="module")
def zoo():
    """A zoo without weights."""
    spec = DenoiserSpec(latent_shape=(4, 7, 7), num_classes=10, null_label=10)
    return SimpleNamespace(
        name="fashion",
        schedule="ddpm-linear",
        num_classes=10,
        classes=Classes(10),
        guidance_channels=4,
        dtype=torch.float32,
        quantisation=None,
        unconditional="null-class",
        denoisers=dict.fromkeys(COSTS),
        default_denoisers=list(COSTS),
        specs=dict.fromkeys(COSTS, spec),
        card=OmegaConf.load(CARDS / "fashion.yaml"),
        decoder="first-stage",
        file=lambda name: SimpleNamespace(name=name),
        weights_sha256=lambda names, **_: dict.fromkeys([*names, "first-stage"], "0" * 64),
        macs=COSTS.__getitem__,
    )


def create(zoo, *overrides):
    return build.create(compose("sample", *overrides), zoo)


@pytest.mark.parametrize(
    "sampler, settings",
    [
        (
            "ddim",
            {
                "name": "ddim", "steps": 50, "eta": 0.0, "spacing": "trailing-inclusive",
                "set_alpha_to_one": True,
            },
        ),
        (
            "ddpm",
            {
                "name": "ddpm", "steps": 250, "variance": "learned-range", "fallback": "refuse",
                "spacing": "trailing-inclusive",
            },
        ),
        (
            "unipc",
            {
                "name": "unipc", "steps": 10, "order": 2, "variant": "bh2", "corrector": True,
                "predict_x0": True, "lower_order_final": True, "set_alpha_to_one": True,
                "spacing": "time-uniform", "history": "keep",
            },
        ),
        (
            "dpm_solver",
            {
                "name": "dpm_solver", "steps": 20, "order": 2, "lower_order_final": True,
                "spacing": "time-uniform", "algorithm": "dpmsolver++", "method": "multistep",
                "history": "keep", "exact_curvature": False,
            },
        ),
    ],
)  # fmt: skip
def test_a_run_says_every_setting_whether_it_is_the_default_or_not(zoo, sampler, settings):
    run = create(zoo, f"sampler={sampler}").settings
    small = round(0.4 * settings["steps"])
    assert run == {
        "zoo": "fashion",
        "weights": dict.fromkeys(("DiT-S", "DiT-XL", "first-stage"), "0" * 64),
        "schedule": "ddpm-linear",
        "sampler": settings,
        "allocation": f"DiT-S*{small}+DiT-XL*{settings['steps'] - small}",
        "alignment": "log-snr",
        "guidance": {
            "scale": 1.5, "channels": 4, "guide": "null-class", "steps": None, "log_snr": None,
        },
        "labels": "random",
        "seed": 0,
        "dtype": "float32",
        "quantisation": None,
    }  # fmt: skip


def test_settings_that_change_the_pixels_are_in_the_run(zoo):
    overrides = [
        (),
        ("sampler.spacing=trailing",),
        ("sampler.set_alpha_to_one=false",),
        ("guidance=autoguidance",),
        ("guidance=interval",),
        ("guidance.steps=[0,10]",),
        ("schedule=stable-diffusion",),
        ("schedule=stable-diffusion", "alignment=timestep"),
        ("allocation=interleave",),
        ("sampler=dpm_solver",),
        ("sampler=dpm_solver", "sampler.history=restart"),
        ("sampler=dpm_solver", "sampler.method=singlestep"),
        ("sampler=ldm_ddim",),
        ("sampler=pndm",),
        ("sampler=heun",),
        ("sampler=uvit",),
        ("sampler=unipc",),
        ("sampler=unipc", "sampler.history=restart"),
        ("sampler=unipc", "sampler.corrector=false"),
    ]
    runs = [create(zoo, *one).settings for one in overrides]
    assert len({content_hash(run) for run in runs}) == len(overrides)
    for run in runs:
        assert json.loads(json.dumps(run)) == run  # a folder's owner is compared with it


@pytest.mark.parametrize(
    "name, override, changed",
    [
        ("fashion", "zoo.denoisers.DiT-S.num_heads=2", {"denoisers.DiT-S.num_heads": 2}),
        ("fashion", "++zoo.denoisers.DiT-XL.schedule=ldm", {"denoisers.DiT-XL.schedule": "ldm"}),
        ("fashion", "++zoo.denoisers.LDM.schedule=ldm", {}),  # has no step
        ("fashion", "zoo.first_stage.scale=0.5", {"first_stage.scale": 0.5}),
        ("fashion", "~zoo.first_stage.scale", {"first_stage.scale": None}),
        ("imagenet256-ldm", "zoo.files.LDM.ema=true", {"files.LDM.ema": True}),
        ("imagenet256-dit", "zoo.first_stage.file=sd-vae-ft-mse", {}),  # named by its hash
        ("fashion", "zoo.checkpoints=elsewhere", {}),
        ("fashion", "zoo.preview.latent_channels=3", {}),  # is not the decoder
    ],
)
def test_networks_of_a_changed_card_are_those_of_other_runs(name, override, changed):
    """The same weights may be those of another network, and a file may have two kinds."""
    config = compose("sample", f"zoo={name}", override)
    zoo = models.Zoo(config.zoo)
    words = [f"zoo={name}", override]
    run = build.create(compose("sample", *words), zoo, planning=True)
    assert run.settings.get("card", {}) == changed
    again = shlex.split(commands.sample({**run.settings, "weights": {}}, zoo))
    for place, value in changed.items():
        assert f"++zoo.{place}={'null' if value is None else str(value).lower()}" in again


def planned(*overrides):
    """The run of a card, which is composed; weights may be missing."""
    config = compose("sample", "zoo=fashion", *overrides)
    return build.create(config, models.Zoo(config.zoo), planning=True)


def test_a_run_of_an_unpublished_card_says_how_its_networks_are_built():
    """Their weights may stay when the card is corrected, and other images must not be taken."""
    mine = planned("zoo.name=mine", "allocation=runs", "allocation.runs=DiT-S*50")
    card = mine.settings["card"]
    assert card["denoisers.DiT-S.num_heads"] == 4 and card["first_stage.scale"] == 1.0
    assert {place.rpartition(".")[0] for place in card} == {"denoisers.DiT-S", "first_stage"}
    words = shlex.split(commands.sample(mine.settings, mine.zoo))
    again = planned("zoo.name=mine", *(word for word in words if word.startswith("++zoo.")),
                    "allocation=runs", "allocation.runs=DiT-S*50")  # fmt: skip
    assert again.id == mine.id

    corrected = planned("zoo.name=mine", "zoo.denoisers.DiT-S.num_heads=2")
    other = planned("zoo.name=mine")
    assert corrected.id != other.id and corrected.timing_key != other.timing_key
    assert corrected.prefix_key != other.prefix_key
    assert planned("zoo.name=mine", "zoo.denoisers.DiT-B.num_heads=2").id == other.id


def test_an_edit_of_a_published_card_makes_other_runs_of_what_it_says(monkeypatch, tmp_path):
    before, apart = planned(), planned("allocation.small=1")
    card = OmegaConf.load(CARDS / "fashion.yaml")
    card.denoisers["DiT-XL"].num_heads = 2
    OmegaConf.save(card, tmp_path / "fashion.yaml")
    monkeypatch.setattr(cards, "CARDS", tmp_path)
    cards._published.cache_clear()
    try:
        edited = planned("zoo.denoisers.DiT-XL.num_heads=2")
        assert {place.rpartition(".")[0] for place in edited.settings["card"]} == {
            "denoisers.DiT-XL"
        }
        assert edited.id != before.id
        assert planned("allocation.small=1").id == apart.id
    finally:
        cards._published.cache_clear()


def test_one_latency_file_has_the_times_of_runs_whose_cards_differ():
    pair = planned("zoo.name=mine")
    small = planned("zoo.name=mine", "allocation=runs", "allocation.runs=DiT-S*50")
    setting = latency.setting(compose("latency", "zoo=fashion"), [small, pair])
    for run in (pair, small):
        assert timing_key(setting, str(run.allocation)) == run.timing_key


def test_settings_that_do_not_change_the_pixels_are_not(zoo):
    alike = [
        [(), ("sampler.spacing=trailing-inclusive",), ("schedule=ddpm-linear",)],
        [(), ("alignment=timestep",)],
        [("guidance.scale=1",), ("guidance=autoguidance", "guidance.scale=1")],
        [
            ("sampler=dpm_solver", "allocation.small=1"),
            ("sampler=dpm_solver", "allocation.small=1", "sampler.history=restart"),
        ],
        [
            ("sampler=unipc", "allocation.small=1"),
            ("sampler=unipc", "allocation.small=1", "sampler.history=restart"),
        ],
        [(), ("allocation=runs", "allocation.runs=DiT-S*20+DiT-XL*30"), ("batch_size=50",)],
    ]
    for same in alike:
        assert len({content_hash(create(zoo, *one).settings) for one in same}) == 1


def test_an_interval_without_an_end_is_plain_data_that_gives_the_same_run(zoo):
    low, high, finite = (
        create(zoo, f"guidance.log_snr={interval}")
        for interval in ("[-inf,0]", "[0,inf]", "[-100,0]")
    )
    assert low.settings["guidance"]["log_snr"] == [None, 0]
    assert high.settings["guidance"]["log_snr"] == [0, None]
    assert finite.settings["guidance"]["log_snr"] == [-100, 0]
    for run in (low, high):
        text = json.dumps(run.settings, allow_nan=False)
        assert json.loads(text) == run.settings
        again = create(zoo, f"guidance.log_snr={json.dumps(run.settings['guidance']['log_snr'])}")
        assert (again.id, again.evaluations) == (run.id, run.evaluations)
    assert low.evaluations == finite.evaluations
    # Each step is guided by one of the two.
    assert low.cost()["nfe"] + high.cost()["nfe"] == 3 * len(low.allocation)


@pytest.mark.parametrize(
    "guidance, unguided, guided",
    [
        ({"channels": 4, "guide": "null-class"}, [1.0], [0.0, 0.5, 1.5, 3.0]),
        ({"embedding": None}, [0.0, 0.5, 1.0], [1.5, 3.0]),  # of a pipeline
    ],
)
def test_runs_with_guidance_share_their_times_and_so_do_those_without(guidance, unguided, guided):
    def keys(scales):
        settings = [{"zoo": "x", "guidance": {**guidance, "scale": scale}} for scale in scales]
        return {timing_key(one, "S*2+L*3") for one in settings}

    assert len(keys(unguided)) == len(keys(guided)) == 1
    assert keys(unguided) != keys(guided)


@pytest.mark.parametrize(
    "overrides, allocation",
    [
        (["allocation.fractions=[0.2,0.3,0.5]"], "DiT-S*2+DiT-B*3+DiT-XL*5"),
        (["allocation=large_to_small"], "DiT-XL*5+DiT-S*5"),
        (["allocation=interleave", "allocation.small=0.2"], None),
        (["allocation=threshold", "allocation.small=0.25"], "DiT-S*3+DiT-XL*7"),
        (["allocation=decreasing_probability"], None),
        (["allocation=switch_snr", "allocation.switches=[-3,1]"], "DiT-S*5+DiT-B*3+DiT-XL*2"),
        (["allocation=runs", "allocation.runs=DiT-XL*1+DiT-S*9"], "DiT-XL*1+DiT-S*9"),
        (["sampler=pndm", "allocation.small=0.5"], "DiT-S*6+DiT-XL*5"),
        (["sampler=heun", "allocation.small=0.5"], "DiT-S*10+DiT-XL*9"),
    ],
)
def test_allocations_by_config(zoo, overrides, allocation):
    sampler = [] if any(one.startswith("sampler=") for one in overrides) else ["sampler=ddim"]
    run = create(zoo, *sampler, *overrides, "sampler.steps=10")
    assert len(run.allocation) == len(run.sampler.timesteps)
    assert allocation is None or str(run.allocation) == allocation


@pytest.mark.parametrize(
    "overrides, nfe, macs",
    [
        (["guidance.scale=1"], 10, 4 * 1 + 6 * 100),
        ([], 20, 2 * (4 * 1 + 6 * 100)),
        (["guidance=autoguidance"], 16, 4 * 1 + 6 * (100 + 1)),
        (["guidance.steps=[2,5]"], 13, 4 * 1 + 6 * 100 + 2 * 1 + 1 * 100),
        (["guidance=autoguidance", "guidance.steps=[2,5]"], 11, 4 * 1 + 6 * 100 + 1),
        (["allocation.small=0", "guidance=autoguidance"], 20, 10 * 101),
    ],
)
def test_the_cost_counts_every_network_that_is_evaluated(zoo, overrides, nfe, macs):
    run = create(zoo, "sampler.steps=10", *overrides)
    assert run.cost() == {"nfe": nfe, "macs_per_image": macs}


def test_the_weights_of_a_guide_are_in_the_run(zoo):
    run = create(zoo, "allocation.small=0", "guidance=autoguidance").settings
    assert run["weights"].keys() == {"DiT-XL", "DiT-S", "first-stage"}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["sampler.spacing=[9,5]"], "lists 2 timesteps"),
        (["sampler.spacing=stride", "sampler.steps=300"], "no stride"),
        (["guidance.steps=5"], "guidance.steps=5 must be a list of 2"),
        (["guidance.steps=[60,70]"], "contain none of the 50 steps"),
        (["guidance.guide=DiT-Q"], "guide='DiT-Q' is unknown"),
        (["alignment=naive"], r"alignment=naive must be log-snr \| timestep"),
        (["schedule=cosine"], "unknown noise schedule 'cosine'"),
        (["allocation.rule=x"], "allocation.rule=x is unknown; known: fractions"),
        (["allocation=runs", "allocation.runs=DiT-S*9"], "has 9 steps, the sampler has 50"),
        (["allocation=runs", "allocation.runs=DiT-S"], r"is not NAME\*COUNT"),
        (["allocation=switch_snr", "allocation.switches=[1,-1]"], "2 ascending"),
        (["allocation=switch_snr", "allocation.switches=[1,2,3]"], "needs 4 different denoisers"),
        (["cache=forecast"], "DiT-S has no part that a cache could forecast; DiT, U-ViT and LDM"),
    ],
)
def test_settings_that_do_not_fit_are_named(zoo, overrides, message):
    with pytest.raises(InputError, match=message):
        create(zoo, *overrides)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, which files are relative to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


FOUR = ["sampler=unipc", "sampler.steps=4"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.json", "[999, 500.5, 90, 7]"),
        ("a.json", '{"commit": "x", "timesteps": [999, 500.5, 90, 7]}'),
        ("a.txt", "999\n500.5\n90\n7\n"),
        ("a.txt", "999, 500.5, 90, 7"),
        ("mine", "999 500.5 90 7"),
        ("b/a.txt", "\n 999  5.005e2\n\n90,7"),
    ],
)
def test_timesteps_from_a_file_are_the_run_that_listing_them_is(zoo, here, name, content):
    listed = create(zoo, *FOUR, "sampler.spacing=[999,500.5,90,7]")
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text(content)
    run = create(zoo, *FOUR, f"sampler.spacing={name}")
    assert run.sampler.timesteps == [999, 500.5, 90, 7]
    assert run.settings == listed.settings and run.id == listed.id
    (here / name).write_text(content.replace("500.5", "400").replace("5.005e2", "400"))
    assert create(zoo, *FOUR, f"sampler.spacing={name}").id != run.id


def test_the_name_of_a_spacing_is_no_file(zoo, here):
    before = create(zoo, "sampler.spacing=trailing").settings
    (here / "trailing").write_text("999 5")
    assert create(zoo, "sampler.spacing=trailing").settings == before


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is not a file here; give a file that exists, the name of a spacing, or a list"),
        ("", "lists 0 timesteps; sampler unipc with sampler.steps=4 needs 4"),
        ("999 500 90", "lists 3 timesteps; sampler unipc with sampler.steps=4 needs 4"),
        ("999 500 90 7 0", "lists 5 timesteps; sampler unipc with sampler.steps=4 needs 4"),
        ("999 500 500 7", "timesteps must decrease, but 500 comes after 500"),
        ("7 90 500 999", "timesteps must decrease, but 90 comes after 7"),
        ("1000 500 90 7", "timesteps from 1000 to 7 leave the schedule's 0 to 999"),
        ("999 500 90 -1", "timesteps from 999 to -1 leave the schedule's 0 to 999"),
        ("inf 500 90 7", "timesteps from inf to 7 leave the schedule's 0 to 999"),
        ("nan 500 90 7", "sampler.spacing=nan must be a number"),
        ("999 500 ninety 7", "'ninety' is not a number"),
        (b"\xff\xfe\x00", "is not text; it must hold timesteps, one a line"),
    ],
)
def test_a_file_of_timesteps_that_does_not_fit_is_named(zoo, here, content, message):
    if content is not None:
        (here / "bad.txt").write_bytes(content if type(content) is bytes else content.encode())
    with pytest.raises(InputError, match=f"^sampler.spacing=bad.txt.*{message}"):
        create(zoo, *FOUR, "sampler.spacing=bad.txt")


@pytest.mark.parametrize(
    "content, message",
    [
        ("[999, 500", "bad.json is damaged, it is not JSON"),
        ("[NaN, 500, 90, 7]", "bad.json is damaged, it is not JSON .it holds NaN"),
        ('{"times": []}', "=bad.json has no entry timesteps with a list of them"),
        ('{"timesteps": "leading"}', "=bad.json must hold a list of timesteps"),
        ("999", "=bad.json must hold a list of timesteps"),
        ('["999", 500, 90, 7]', "=bad.json: .*'999' must be a number"),
        ("[true, 500, 90, 7]", "=bad.json: .*True must be a number"),
        ("[[999, 500], 90, 7]", r"=bad.json: .*\[999, 500\] must be a number"),
        ("[999, 500]", "=bad.json: .*lists 2 timesteps.* needs 4"),
    ],
)
def test_a_json_file_of_something_else_is_named(zoo, here, content, message):
    (here / "bad.json").write_text(content)
    with pytest.raises(InputError, match=message):
        create(zoo, *FOUR, "sampler.spacing=bad.json")


def test_fractional_timesteps_are_refused_by_samplers_of_whole_ones(zoo, here):
    (here / "a.txt").write_text("999 500.5")
    with pytest.raises(
        InputError, match=r"^sampler.spacing=a.txt: timesteps must be a list of int"
    ):
        create(zoo, "sampler=ddim", "sampler.steps=2", "sampler.spacing=a.txt")


def test_a_mistake_beside_the_file_is_not_the_files(zoo, here):
    (here / "a.txt").write_text("999 500 90 7")
    with pytest.raises(InputError, match=r"^sampler.variant='bh3' is unknown"):
        create(zoo, *FOUR, "sampler.variant=bh3", "sampler.spacing=a.txt")
