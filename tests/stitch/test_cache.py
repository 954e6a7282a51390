"""Caches: what is forecast, when, and that nothing is remembered where it must not be."""

import contextlib
import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

import models
import samplers
import stitch
from models import DenoiserSpec
from models.errors import InputError
from samplers import Guidance
from stitch import Allocation, Forecast, SharedPrefix, Trajectory
from stitch.cache import extrapolate
from stitch.sampling import sample_latents, stitched

LABELS = [3, 1, 4]
STEPS = 10
PAIRS = {"DiT": ("DiT-S", "DiT-B"), "U-ViT": ("U-ViT", "U-ViT"), "U-Net": ("LDM-S", "LDM")}


@pytest.fixture(scope="module")
def zoo():
    return models.load_zoo("fashion")


def walked(zoo, allocation, guidance, wrappers=(), indices=range(3), sampler=None):
    """Arguments of ``sample_latents``, and its latents with ``wrappers``."""
    sampler = sampler or samplers.create("ddim", len(allocation), zoo.schedule)
    labels = torch.tensor([LABELS[index] for index in indices])
    parts = zoo.denoisers, sampler, allocation, labels, guidance, 5, indices
    return parts, sample_latents(*parts, wrappers=wrappers)


class Series:
    """A network whose expensive part is a function of the timestep; its cheap part adds nothing."""

    def __init__(self, function):
        self.spec = DenoiserSpec((1, 2, 2), 10, 10, learn_sigma=False, cacheable=True)
        self.function, self.asked = function, []

    def evaluate(self, x, t, y):
        self.asked.append(t.item())
        kept = torch.full_like(x, self.function(t.item()))
        return kept, kept

    def reuse(self, kept, x, t, y):
        return kept


EVEN = [990.0 - 90 * step for step in range(11)]


def answers(function, forecast, timesteps=EVEN):
    """The answers of a ``Series``, what is true, and the timesteps that were evaluated in full."""
    network = Series(function)
    allocation = Allocation.explicit("a" * len(timesteps))
    trajectory = Trajectory(
        {"a": network}, allocation, timesteps, torch.tensor([0]), Guidance(), aligned=False
    )
    denoise = forecast.wrap(trajectory, trajectory)
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    given = torch.cat([denoise(x, step) for step in range(len(timesteps))])
    true = torch.tensor([function(t) for t in timesteps], dtype=torch.float64)
    return given, true[:, None, None, None].expand_as(given), network.asked


def constant(t):
    return 7.0


def linear(t):
    return 0.3 * t - 20


def quadratic(t):
    return 0.001 * t * t - 0.2 * t + 3


@pytest.mark.parametrize(
    "function, orders",
    [(constant, (0, 1, 2, 3)), (linear, (1, 2, 3)), (quadratic, (2, 3))],
)
def test_a_series_is_forecast_exactly_by_the_orders_that_can(function, orders):
    for order in range(4):
        given, true, asked = answers(function, Forecast(3, order, warmup=order + 1))
        assert len(asked) < len(given)
        error = (given - true).abs().max().item()
        assert error < 1e-11 if order in orders else error > 0.1


@pytest.mark.parametrize("interval, order, warmup", [(2, 1, 2), (3, 1, 3), (3, 2, 5), (5, 2, 5)])
def test_timesteps_need_not_be_even_and_may_come_twice_as_those_of_heun(interval, order, warmup):
    heun = samplers.create("heun", 8, "ddpm-linear").timesteps
    assert len(set(heun)) < len(heun)
    given, true, asked = answers(
        (linear, quadratic)[order - 1], Forecast(interval, order, warmup), heun
    )
    assert len(asked) < len(given)
    torch.testing.assert_close(given, true, rtol=1e-4, atol=1e-3)  # networks get float32 timesteps


def test_where_few_were_kept_the_order_is_lower():
    given, true, asked = answers(linear, Forecast(3, order=2, warmup=1))
    assert asked == [990.0, 720.0, 450.0, 180.0]
    assert torch.equal(given[1:3], true[:1].expand(2, 1, 2, 2))  # one kept: held
    torch.testing.assert_close(given[3:], true[3:], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "interval, warmup, full",
    [
        (1, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (2, 1, [0, 2, 4, 6, 8]),
        (3, 1, [0, 3, 6, 9]),
        (3, 2, [0, 1, 4, 7]),
        (4, 3, [0, 1, 2, 6]),
        (10, 1, [0]),
    ],
)
def test_full_steps_are_those_of_the_schedule(interval, warmup, full):
    forecasts = Forecast(interval, 1, warmup).forecasts([("a", "a")] * 10)
    assert [step for step, forecast in enumerate(forecasts) if not forecast] == full


def test_the_schedule_begins_anew_where_denoisers_or_guidance_change():
    evaluations = [("a", "a")] * 3 + [("b", "b")] * 3 + [("b",)] * 3 + [("b", "b")]
    forecasts = Forecast(3).forecasts(evaluations)
    assert [step for step, forecast in enumerate(forecasts) if not forecast] == [0, 3, 6, 9]
    assert Forecast(3).calls(evaluations)[2:4] == [("forecast of a",) * 2, ("b", "b")]


def test_half_precision_is_rounded_once_for_every_line():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, generator=generator).bfloat16()
    end = (start.float() + 0.1 * torch.randn(1000, generator=generator)).bfloat16()
    exact = start.double() + (end.double() - start.double()) * (4 / 3)
    assert torch.equal(extrapolate({0: start, 3: end}, 4), exact.bfloat16())


# ---- against a few lines that know nothing of the networks' two methods ----


def newton(points, at):
    """Newton's divided differences of [(step, value), ...], at another step."""
    steps, table = [step for step, _ in points], [value.double() for _, value in points]
    total, product = table[0], 1.0
    for width in range(1, len(points)):
        table = [
            (b - a) / (steps[i + width] - steps[i])
            for i, (a, b) in enumerate(itertools.pairwise(table))
        ]
        product *= at - steps[width - 1]
        total = total + table[0] * product
    return total


def seam(network):
    """The module that a network's expensive part feeds; of its input, which channels do so."""
    if isinstance(network, models.dit.DiT):
        return network.final_layer, None
    if isinstance(network, models.uvit.UViT):
        return network.norm, None
    unet = network.model["diffusion_model"]
    last = unet.output_blocks[-1]
    return last, last[0].in_layers[0].num_channels - unet.model_channels


@contextlib.contextmanager
def replaced(networks, now, full, order):
    """While the context is open, inputs of seams are replaced at all steps that are not ``full``.

    Args:
        now: a list of the current step and whether everything is to be forgotten before it.
    """
    kept = defaultdict(list)

    def hook(name, channels):
        def replace(_, inputs):
            x, *others = inputs
            deep = x[:, :channels] if channels else x
            step, afresh = now
            if afresh:
                kept[name].clear()
            if step in full:
                kept[name].append((step, deep))
                return None
            deep = newton(kept[name][-order - 1 :], step).to(x)
            return (torch.cat([deep, x[:, channels:]], 1) if channels else deep, *others)

        return replace

    seams = {name: seam(network) for name, network in networks.items()}
    handles = [
        module.register_forward_pre_hook(hook(name, channels))
        for name, (module, channels) in seams.items()
    ]
    yield
    for handle in handles:
        handle.remove()


# (allocation of two denoisers, guidance, cache, full steps, the first step of each stretch)
SWITCH = ("aaaabbbbbb", Guidance(1.5, 4))
CASES = {
    "switch, order 0": (*SWITCH, Forecast(3, 0, 2), {0, 1, 4, 5, 8}, {0, 4}),
    "switch, order 1": (*SWITCH, Forecast(3, 1, 2), {0, 1, 4, 5, 8}, {0, 4}),
    "one, order 2": ("b" * 10, Guidance(1.5, 4), Forecast(2, 2, 3), {0, 1, 2, 4, 6, 8}, {0}),
    "unguided": ("b" * 10, Guidance(1.0), Forecast(2, 1, 1), {0, 2, 4, 6, 8}, {0}),
    "interval": (
        "b" * 10, Guidance(1.5, 4, steps=(3, 7)), Forecast(2, 1, 1), {0, 2, 3, 5, 7, 9}, {0, 3, 7}
    ),
}  # fmt: skip
KINDS = [("DiT", case) for case in CASES]
KINDS += [("U-ViT", "one, order 2"), ("U-Net", "switch, order 0"), ("U-Net", "interval")]


@torch.no_grad()
@pytest.mark.parametrize("family, case", KINDS)
def test_latents_are_those_of_hooks_that_put_newtons_forecast_in_place(zoo, family, case):
    letters, guidance, forecast, full, firsts = CASES[case]
    allocation = Allocation.explicit([PAIRS[family]["ab".index(one)] for one in letters])
    parts, latents = walked(zoo, allocation, guidance, [forecast])
    trajectory, now = stitched(*parts), [0, True]

    def denoise(x, step):
        now[:] = step, step in firsts
        return trajectory(x, step)

    networks = {name: zoo.denoisers[name] for name in allocation.denoisers}
    with replaced(networks, now, full, forecast.order):
        _, expected = walked(zoo, allocation, guidance, [Instead(denoise)])
    torch.testing.assert_close(latents, expected, rtol=0, atol=2e-4)
    _, uncached = walked(zoo, allocation, guidance)
    assert (latents - uncached).abs().max() > 0.01


class Instead:
    """A wrapper that is another ``denoise``."""

    def __init__(self, denoise):
        self.denoise = denoise

    def wrap(self, denoise, trajectory):
        return self.denoise


@torch.no_grad()
def test_a_guide_that_is_another_denoiser_has_a_cache_of_its_own(zoo):
    allocation, guidance = Allocation.explicit(["DiT-B"] * STEPS), Guidance(1.5, 4, "DiT-S")
    forecast, full = Forecast(3, 1, 2), {0, 1, 4, 7}
    parts, latents = walked(zoo, allocation, guidance, [forecast])
    trajectory, now = stitched(*parts), [0, True]

    def denoise(x, step):
        now[:] = step, step == 0
        return trajectory(x, step)

    networks = {name: zoo.denoisers[name] for name in ("DiT-S", "DiT-B")}
    with replaced(networks, now, full, 1):
        _, expected = walked(zoo, allocation, guidance, [Instead(denoise)])
    torch.testing.assert_close(latents, expected, rtol=0, atol=2e-4)


# ---- what must not matter ----


@pytest.mark.parametrize("family", PAIRS)
def test_an_interval_of_1_changes_nothing_to_the_bit(zoo, family):
    small, large = PAIRS[family]
    allocation = Allocation.explicit([small, small, large, large])
    sampler = samplers.create("ddim", 4, zoo.schedule)
    batch = dict(labels=LABELS, seed=5, guidance=Guidance(1.5, 4, steps=(1, 3)))
    cached = stitch.sample(zoo, sampler, allocation, wrappers=[Forecast(1, 1, 2)], **batch)
    assert np.array_equal(cached, stitch.sample(zoo, sampler, allocation, **batch))


SAMPLERS = [
    ("ddim", {}), ("ddpm", {}), ("pndm", {}), ("heun", {}), ("dpm_solver", {"order": 3}),
    ("dpm_solver", {"order": 2, "method": "singlestep", "algorithm": "dpmsolver"}),
]  # fmt: skip


@pytest.mark.parametrize("name, options", SAMPLERS)
def test_two_walks_in_a_row_are_equal_with_every_sampler(zoo, name, options):
    sampler = samplers.create(name, 6, zoo.schedule, **options)
    allocation = Allocation.from_fractions({"DiT-S": 0.5, "DiT-B": 0.5}, len(sampler.timesteps))
    forecast, guidance = Forecast(2, 1, 1), Guidance(1.5, 4)
    first, again = (walked(zoo, allocation, guidance, [forecast], sampler=sampler) for _ in "12")
    assert torch.equal(first[1], again[1])
    _, uncached = walked(zoo, allocation, guidance, sampler=sampler)
    assert not torch.equal(first[1], uncached)


@pytest.mark.parametrize("family", PAIRS)
def test_an_image_depends_on_its_index_and_label_not_on_its_batch(zoo, family):
    small, large = PAIRS[family]
    allocation, guidance = Allocation.explicit([small] * 3 + [large] * 5), Guidance(1.5, 4)
    _, together = walked(zoo, allocation, guidance, [Forecast(2, 1, 1)])
    _, alone = walked(zoo, allocation, guidance, [Forecast(2, 1, 1)], indices=[1])
    assert (together[1] - alone[0]).abs().max() < 1e-3  # another batch size rounds differently
    assert (together[0] - alone[0]).abs().max() > 0.1


@torch.no_grad()
def test_another_walk_of_the_same_wrapped_trajectory_finds_nothing_kept(zoo):
    allocation, guidance = Allocation.explicit(["DiT-S"] * 6), Guidance(1.5, 4)
    parts, _ = walked(zoo, allocation, guidance)
    trajectory, (sampler, x) = stitched(*parts), (parts[1], torch.randn(3, 4, 7, 7))
    denoise = Forecast(3, 1, 2).wrap(trajectory, trajectory)
    expected = sampler(denoise, x)
    for step in range(4):  # a walk from elsewhere, which ends early
        denoise(x + step, step)
    assert torch.equal(sampler(denoise, x), expected)
    # A step that follows nothing is evaluated in full, whatever the schedule says of it.
    assert torch.equal(denoise(x, 2), trajectory(x, 2))
    assert not torch.equal(denoise(x, 3), trajectory(x, 3))


@torch.no_grad()
def test_a_step_may_be_asked_for_again(zoo):
    allocation, guidance = Allocation.explicit(["DiT-S"] * 6), Guidance(1.5, 4)
    trajectory = stitched(*walked(zoo, allocation, guidance)[0])
    xs = torch.randn(6, 3, 4, 7, 7, generator=torch.Generator().manual_seed(0))
    once, twice = (Forecast(2, 1, 1).wrap(trajectory, trajectory) for _ in "12")
    for step, x in enumerate(xs):
        expected = once(x, step)
        assert torch.equal(twice(x, step), expected) and torch.equal(twice(x, step), expected)


def test_a_shared_beginning_and_a_cache_refuse_each_other(zoo):
    sampler = samplers.create("ddim", 4, zoo.schedule)
    allocation = Allocation.explicit(["DiT-S"] * 4)
    for wrappers in ([Forecast(2), SharedPrefix()], [SharedPrefix(), Forecast(2)]):
        with pytest.raises(InputError, match="cannot be combined with a (cache|SharedPrefix)"):
            stitch.sample(zoo, sampler, allocation, LABELS, wrappers=wrappers)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(interval=0), "cache.interval=0 must be a whole number, 1 or more"),
        (dict(interval=2.5), "cache.interval=2.5 must be a whole number"),
        (dict(interval=True), "cache.interval=True must be a whole number"),
        (dict(interval=2, order=-1), "cache.order=-1 must be a whole number, 0 or more"),
        (dict(interval=2, warmup=0), "cache.warmup=0 must be a whole number, 1 or more"),
        (dict(interval=5), "cache.interval=5 must be at most the 4 steps"),
        (dict(interval=2, order=5), "cache.order=5 must be at most the 4 steps"),
        (dict(interval=2, warmup=5), "cache.warmup=5 must be at most the 4 steps"),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(zoo, options, message):
    sampler = samplers.create("ddim", 4, zoo.schedule)
    allocation = Allocation.explicit(["DiT-S"] * 4)
    with pytest.raises(InputError, match=message):
        stitch.sample(zoo, sampler, allocation, LABELS, wrappers=[Forecast(**options)])


def test_a_network_without_an_expensive_part_is_named_with_the_families_that_have_one():
    network = Series(constant)
    network.spec = DenoiserSpec((1, 2, 2), 10, 10, learn_sigma=False)
    allocation = Allocation.explicit("aa")
    trajectory = Trajectory({"a": network}, allocation, [9, 0], torch.tensor([0]), Guidance())
    with pytest.raises(InputError, match="a has no part that a cache .* DiT, U-ViT and LDM's U-N"):
        Forecast(2).wrap(trajectory, trajectory)
