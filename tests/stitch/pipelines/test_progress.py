"""Which step a call belongs to, however the pipeline names it."""

from types import SimpleNamespace

import diffusers
import pytest
import torch

from models.errors import InputError
from stitch.pipelines.progress import Progress
from tests.stitch.pipelines import tiny


def walk(name: str, steps: int = 6, start: int = 0, form=lambda t: t) -> tuple[list, list]:
    """The places that a pipeline's loop calls, and which of these calls begin a trajectory."""
    scheduler = tiny.SCHEDULERS[name]()
    progress = Progress(SimpleNamespace(scheduler=scheduler))
    scheduler.set_timesteps(steps)
    if start and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x, places, begins = torch.zeros(1, 4, 8, 8), [], []
    for t in scheduler.timesteps[start:]:
        begins.append(progress.follow(form(t)))
        places.append(progress.step)
        x = scheduler.step(torch.zeros_like(x), t, x).prev_sample
    return places, begins


FORMS = {
    "view": lambda t: t,
    "expanded": lambda t: t.expand(2),
    "copy": lambda t: t.clone(),
    "batch": lambda t: t.repeat(2),
    "number": lambda t: t.item(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name, entries", [("pndm", 7), ("ddim", 6), ("heun", 11), ("unipc", 6)])
def test_calls_are_found_in_whatever_form_their_timestep_comes(name, entries, form):
    places, begins = walk(name, form=FORMS[form])
    assert places == list(range(entries))
    assert begins == [True] + [False] * (entries - 1)


@pytest.mark.parametrize("name, start", [("pndm", 2), ("heun", 4), ("dpm++", 3)])
def test_a_trajectory_may_start_in_the_middle(name, start):
    places, _ = walk(name, start=start)
    assert places == list(range(start, start + len(places)))
    assert len(places) > 2


def test_pipelines_may_rescale_and_round_timesteps_of_schedulers_that_count():
    places, begins = walk("unipc", form=lambda t: (t / 1000).to(torch.bfloat16).expand(2))
    assert places == list(range(6)) and begins.count(True) == 1


def test_calls_may_be_repeated_within_a_step():
    scheduler = tiny.SCHEDULERS["ddim"]()
    progress = Progress(SimpleNamespace(scheduler=scheduler))
    scheduler.set_timesteps(3)
    seen = []
    for t in scheduler.timesteps:
        for _ in range(2):
            begins = progress.follow(t)
            seen.append((progress.step, begins, progress.again))
    assert seen == [
        (0, True, False),
        (0, False, True),
        (1, False, False),
        (1, False, True),
        (2, False, False),
        (2, False, True),
    ]


def test_new_timesteps_and_going_back_begin_a_trajectory():
    scheduler = tiny.SCHEDULERS["ddim"]()
    progress = Progress(SimpleNamespace(scheduler=scheduler))
    scheduler.set_timesteps(4)
    assert [progress.follow(t) for t in scheduler.timesteps] == [True, False, False, False]
    assert progress.follow(scheduler.timesteps[0])
    assert not progress.follow(scheduler.timesteps[1])
    scheduler.set_timesteps(4)
    assert progress.follow(scheduler.timesteps[1])
    progress.forget()
    assert progress.follow(scheduler.timesteps[2])


def test_another_scheduler_is_followed_from_its_next_call_on():
    pipe = SimpleNamespace(scheduler=tiny.SCHEDULERS["ddim"]())
    progress = Progress(pipe)
    pipe.scheduler.set_timesteps(4)
    progress.follow(pipe.scheduler.timesteps[3])
    pipe.scheduler = diffusers.EulerDiscreteScheduler()
    pipe.scheduler.set_timesteps(5)
    assert progress.follow(pipe.scheduler.timesteps[0])
    assert len(progress.timesteps) == 5


@pytest.mark.parametrize("name, ends", [("ddim", "751 to 1"), ("unipc", "999 to 250")])
def test_a_timestep_that_the_scheduler_does_not_have_is_named(name, ends):
    scheduler = tiny.SCHEDULERS[name]()
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match=f"^timestep=37 is none of the scheduler's 4, {ends}; "):
        Progress(SimpleNamespace(scheduler=scheduler)).follow(37)


def test_after_the_last_timestep_none_is_left():
    scheduler = tiny.SCHEDULERS["unipc"]()
    progress = Progress(SimpleNamespace(scheduler=scheduler))
    scheduler.set_timesteps(2)
    x = torch.zeros(1, 4, 8, 8)
    for t in scheduler.timesteps:
        x = scheduler.step(x, t, x).prev_sample
    with pytest.raises(InputError, match="^the scheduler has no timestep left after its 2; "):
        progress.follow(5.0)
