"""What a setting may be, for every setting of every command, and how it is refused."""

import itertools

import pytest
import wandb
from omegaconf import OmegaConf

from models.errors import InputError
from scripts import cli, schema, zoo
from tests.commands import compose, refusal, run

COMMANDS = sorted(
    path.stem for path in cli.CONFIGS.glob("*.yaml")
    if path.stem not in ("console", "sampling", "datasets")
)  # fmt: skip
# What a command cannot be composed without.
NEEDS = {
    "claims": ["figure=fig09"],
    "convert": ["network=DiT-S/2", "source=a.pt", "target=b.safetensors"],
    "download": ["zoo=fashion"],
    "figures": ["figure=fig09"],
    "plan": ["budget=2.5s"],
    "report": ["figure=fig09"],
}


def options(group):
    return sorted(path.stem for path in (cli.CONFIGS / group).glob("*.yaml"))


def every_choice():
    """(command, overrides) that have every file of configs in them, in few compositions."""
    yield from ((name, NEEDS.get(name, [])) for name in COMMANDS)
    yield "figures", [f"figure=[{','.join(options('figure'))}]"]
    groups = ("sampler", "allocation", "guidance", "cache", "zoo")
    for chosen in itertools.zip_longest(*map(options, groups)):
        overrides = [f"{g}={choice}" for g, choice in zip(groups, chosen, strict=True) if choice]
        runs = ["allocation.runs=DiT-S*9"] if "allocation=runs" in overrides else []
        yield "sample", [*overrides, *runs]
    yield from (("evaluate", [f"eval={choice}"]) for choice in options("eval"))
    yield from (("text2image", [f"pipeline={choice}"]) for choice in options("pipeline"))
    yield from (("sweep", [f"launcher={choice}"]) for choice in options("launcher"))
    for recipe in (cli.CONFIGS / "train").glob("*/*.yaml"):
        yield "train", [f"train={recipe.parent.name}/{recipe.stem}"]


@pytest.fixture(scope="module")
def configs():
    return [
        (name, OmegaConf.to_container(compose(name, *overrides)))
        for name, overrides in every_choice()
    ]


def test_every_setting_of_every_config_is_in_the_schema_and_the_reverse(configs):
    found = {setting for name, config in configs for setting, _ in schema.settings(config, name)}
    used = {schema.pattern_of(setting) for setting in found}
    unused = schema.SETTINGS.keys() - used
    # No card and no recipe here says these, and another may.
    assert [p for p in unused if not p.startswith(("zoo.", "train."))] == []


def test_no_setting_takes_a_group_or_a_truth_for_a_number_name_or_list(configs):
    for name, config in configs:
        for setting, _ in schema.settings(config, name):
            kind = schema.kind_of(setting, name)
            if kind is schema.ANYTHING:
                continue
            assert not kind.holds({"a": 1}), setting
            assert kind.holds(True) == kind.text.startswith("true or false"), setting
            assert not kind.holds([]), setting
            assert not kind.holds(float("nan")), setting


@pytest.mark.parametrize(
    "name, override, message",
    [
        ("sample", "seed=true", "seed=true must be a whole number, 0 to 18446744073709551615"),
        ("sample", "seed=-1", "seed=-1 must be a whole number"),
        ("sample", "seed=18446744073709551616", "seed=18446744073709551616 must be"),
        ("sample", "seed=0.5", "seed=0.5 must be"),
        ("sample", "seed=null", "seed=null must be"),
        ("sample", "num_images=true", "num_images=true must be a whole number, 1 or more"),
        ("sample", "num_images=1e3", "num_images=1000.0 must be"),
        ("sample", "shard_size=0", "shard_size=0 must be"),
        ("sample", "sampler.spacing=5", "sampler.spacing=5 must be text, or a list of numbers"),
        ("sample", "sampler.spacing=true", "sampler.spacing=true must be"),
        ("sample", "sampler.spacing=null", "sampler.spacing=null must be"),
        ("sample", "sampler.spacing={a:1}", 'sampler.spacing={"a": 1} must be'),
        ("sample", "sampler.steps=true", "sampler.steps=true must be"),
        ("sample", "sampler.eta=high", "sampler.eta=high must be a number from 0 to 1"),
        ("sample", "guidance.scale=true", "guidance.scale=true must be a number, 0 or more"),
        ("sample", "guidance.scale=nan", "guidance.scale=NaN must be"),
        ("sample", "guidance.scale=inf", "guidance.scale=Infinity must be"),
        ("sample", "guidance.channels=abc", "guidance.channels=abc must be a whole number"),
        ("sample", "guidance.steps=[a,b]", 'guidance.steps=["a", "b"] must be a list of 2'),
        ("sample", "labels=[3,true]", "labels=[3, true] must be random | balanced | classes by"),
        ("sample", "compile=1", "compile=1 must be true or false"),
        ("sample", "precision=half", "precision=half must be fp32 | bf16 | fp16 | auto"),
        ("sample", "quantisation=int4", "quantisation=int4 must be int8 | fp8, or null"),
        ("sample", "runs=2024", """runs=2024 must be text; in quotes it is text: 'runs="2024"'"""),
        ("sample", "zoo.denoisers=5", "zoo.denoisers=5: zoo.denoisers is a group"),
        ("sample", "zoo.denoisers.DiT-S.depth=true", "depth=true must be a whole number"),
        ("sample", "+typo=1", "typo=1: there is no such setting"),
        ("sample", "allocation.small=1.5", "allocation.small=1.5 must be a number from 0 to 1"),
        ("evaluate", "num_images=0", "num_images=0 must be a whole number, 1 or more, or null"),
        ("evaluate", "num_images=20.5", "num_images=20.5 must be"),
        ("evaluate", "eval.neighbours=three", "eval.neighbours=three must be"),
        ("evaluate", "wandb.mode=onlin", "wandb.mode=onlin must be disabled | offline | online"),
        ("export", "num_images=all", "num_images=all must be"),
        ("train", "log_every=0", "log_every=0 must be"),
        ("train", "precision=fp16", "precision=fp16 must be auto | fp32 | bf16"),
        (
            "sweep",
            "datasets.fashion.throughput.devices=[1,x]",
            'datasets.fashion.throughput.devices=[1, "x"] must be',
        ),
        ("latency", "warm_up=0", "warm_up=0 must be"),
        ("convert", "source=a", "network is not set; it must be text"),
    ],
)
def test_a_setting_of_another_kind_is_named_with_its_value_and_what_it_must_be(
    name, override, message
):
    with pytest.raises(InputError) as error:
        compose(name, override)
    assert message in str(error.value)


@pytest.mark.parametrize("setting, value", [("lr", "abc"), ("images", "abc"), ("betas", "0.9")])
def test_a_recipe_is_checked_as_every_setting_is(setting, value):
    with pytest.raises(InputError, match=f"train.{setting}={value} must be"):
        compose("train", "train=fashion/DiT-S", f"train.{setting}={value}")


def test_a_single_value_where_a_list_is_wanted_is_a_list_of_one():
    config = compose(
        "sweep", "eval.metrics=fid", "allocation.denoisers=DiT-S", "allocation.fractions=0.4",
        "labels=3", "datasets.fashion.throughput.devices=2",
    )  # fmt: skip
    assert config.eval.metrics == ["fid"]
    assert config.allocation.denoisers == ["DiT-S"]
    assert config.allocation.fractions == [0.4]
    assert config.labels == [3]
    assert config.datasets.fashion.throughput.devices == [2]
    assert compose("sample").labels == "random"
    config = compose("sample", "allocation=switch_snr", "allocation.switches=-3")
    assert config.allocation.switches == [-3]


@pytest.mark.parametrize(
    "name, override, message",
    [
        ("sample", "guidance=1.5", "guidance=1.5: guidance is a group of settings; choose one of"),
        ("sample", "sampler=null", "choose one of ddim, ddpm, dpm_solver"),
        ("sweep", "zoo=true", "zoo=true: zoo is a group"),
        ("sample", "5", "5 is not a setting; give settings as NAME=VALUE"),
        ("sweep", "launcher=joblib", "launcher=joblib is for the points of a sweep: add -m"),
    ],
)
def test_what_hydra_cannot_compose_is_named(name, override, message):
    assert message in refusal(name, override)


@pytest.mark.parametrize("folder", ["runs/epoch=9-step=99", "runs/a(1", 'runs/7" and {8'])
def test_text_that_hydra_cannot_read_is_shown_in_the_quotes_that_it_needs(folder):
    message = refusal("export", f"samples={folder}", "target=x")
    escaped = folder.replace('"', '\\"')
    quoted = f'samples="{escaped}"'
    assert message.endswith(f"quote it twice: '{quoted}'")
    assert f"{folder} is not a sample folder" in refusal("export", quoted, "target=x")


@pytest.mark.parametrize("name", ["evaluate", "train"])
def test_nothing_is_begun_that_wandb_could_not_log(name, monkeypatch):
    def unanswered(prompt):
        raise wandb.Error("no answer")

    wanted = {"evaluate": ["samples=nothing"], "train": ["data.root=nothing"]}[name]
    monkeypatch.setattr(wandb, "login", lambda prompt: False)
    message = refusal(name, "wandb.mode=online", *wanted)
    assert "wandb.mode=online, but nobody is logged in" in message
    monkeypatch.setattr(wandb, "login", unanswered)
    assert "wandb.mode=online, but no answer" in refusal(name, "wandb.mode=online", *wanted)
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    assert "nothing" in refusal(name, "wandb.mode=online", *wanted)


def test_slurm_jobs_are_refused_where_there_is_no_slurm(monkeypatch):
    monkeypatch.setenv("PATH", "")
    message = refusal("sweep", "-m", "launcher=slurm")
    assert "launcher=slurm needs Slurm, and there is no srun on this machine" in message


def test_only_mistakes_of_users_are_one_line(monkeypatch):
    def failing(error):
        def names():
            raise error

        monkeypatch.setattr(zoo, "names", names)

    for bug in (ValueError("zip() argument 2 is shorter"), KeyError("x"), OSError("no source")):
        failing(bug)
        with pytest.raises(type(bug)):
            run("zoo")
    failing(PermissionError(13, "Permission denied", "/somewhere/file"))
    assert refusal("zoo") == "error: /somewhere/file: Permission denied"
    failing(InputError("name=x is unknown"))
    assert refusal("zoo") == "error: name=x is unknown"
    failing(FloatingPointError("images [3] are not finite"))
    assert refusal("zoo") == "error: images [3] are not finite"
