"""Guidance: what is combined, when, by whom, and what it costs."""

import itertools

import pytest
import torch

import samplers
from models import DenoiserSpec
from models.errors import InputError
from samplers import Guidance, NoiseSchedule
from stitch import Allocation, Trajectory, evaluations
from stitch.sampling import sample_latents

SCHEDULE = NoiseSchedule.create("ddpm-linear")
TIMESTEPS = [900, 600, 300, 0]
LOG_SNR = SCHEDULE.log_snr(TIMESTEPS)
THEN = Allocation.explicit(["S", "S", "L", "L"])


class Recorder:
    """Predicts ``level`` + label everywhere, and keeps the batches that it is asked for."""

    def __init__(self, level, learn_sigma=True, **facts):
        spec = dict(latent_shape=(4, 2, 2), num_classes=5, null_label=5, learn_sigma=learn_sigma)
        self.spec = DenoiserSpec(**{**spec, **facts})
        self.level, self.batches = level, []

    def __call__(self, x, t, y):
        self.batches.append(y.tolist())
        value = self.level + (y if y.ndim == 1 else y.sum(1))
        return (value.view(-1, 1, 1, 1) * torch.ones(1, 4 * (1 + self.spec.learn_sigma), 2, 2)).to(
            x.dtype
        )

    def embed_labels(self, y):
        return torch.stack([y.float(), torch.zeros(len(y))], dim=1)


def denoisers(**facts):
    return {"S": Recorder(100.0, **facts), "L": Recorder(1000.0, **facts)}


def walk(guidance, allocation=THEN, found=None, labels=(1, 2), **options):
    """Guided predictions (steps, B) of the first and the last epsilon channel, and the batches."""
    found = found or denoisers()
    trajectory = Trajectory(
        found, allocation, TIMESTEPS, torch.tensor(labels), guidance, SCHEDULE, **options
    )
    x = torch.zeros(len(labels), 4, 2, 2)
    outputs = torch.stack([trajectory(x, step) for step in range(len(TIMESTEPS))])
    assert sum(len(names) for names in trajectory.evaluations) == sum(
        len(batch) // len(labels) for one in found.values() for batch in one.batches
    )
    return outputs[:, :, 0, 0, 0], outputs[:, :, 3, 0, 0], found


def test_the_null_class_goes_through_in_the_same_batch():
    first, last, found = walk(Guidance(3.0, channels=3))
    assert found["S"].batches == found["L"].batches == [[1, 2, 5, 5]] * 2
    assert first[0].tolist() == [105 + 3 * (101 - 105), 105 + 3 * (102 - 105)]
    assert first[2].tolist() == [1005 + 3 * (1001 - 1005), 1005 + 3 * (1002 - 1005)]
    assert last[0].tolist() == [101, 102]  # the fourth channel is not guided


def test_scales_count_from_the_guide():
    """w = 1 + s: U-ViT's and the paper's (1 + s) D_c - s D_u is D_u + w (D_c - D_u)."""
    conditional, unconditional = torch.randn(2, 2, 4, 2, 2, generator=torch.manual_seed(0))
    for s in (0.4, 1.5):
        guided = Guidance(1 + s, channels=4).combine(conditional, unconditional)
        torch.testing.assert_close(guided, (1 + s) * conditional - s * unconditional)
        torch.testing.assert_close(guided, conditional + s * (conditional - unconditional))
    assert torch.equal(Guidance(0.0, channels=4).combine(conditional, unconditional), unconditional)


@pytest.mark.parametrize(
    "interval, guided",
    [
        (dict(steps=(1, 3)), [False, True, True, False]),
        (dict(steps=(0, 100)), [True] * 4),
        (dict(log_snr=(LOG_SNR[1], LOG_SNR[3])), [False, True, True, False]),
        (dict(log_snr=(-100.0, -1.0), steps=(1, 4)), [False, True, False, False]),
    ],
)
def test_outside_the_interval_only_the_conditional_pass_is_paid(interval, guided):
    guidance = Guidance(3.0, **interval)
    first, _, found = walk(guidance)
    batches = [*found["S"].batches, *found["L"].batches]
    assert [len(batch) for batch in batches] == [4 if active else 2 for active in guided]
    plain, _, _ = walk(Guidance(1.0))
    everywhere, _, _ = walk(Guidance(3.0))
    for step, active in enumerate(guided):
        assert torch.equal(first[step], (everywhere if active else plain)[step])
    owned = evaluations(THEN, guidance, LOG_SNR)
    assert [len(names) for names in owned] == [1 + active for active in guided]


def test_a_denoiser_guides_the_others_with_the_same_label():
    first, last, found = walk(Guidance(3.0, channels=3, guide="S"))
    # Its own steps are unguided; at the others it is asked as well, each in its own batch.
    assert found["S"].batches == [[1, 2]] * 4 and found["L"].batches == [[1, 2]] * 2
    assert first[0].tolist() == [101, 102]
    assert first[2].tolist() == [101 + 3 * (1001 - 101), 102 + 3 * (1002 - 102)]
    assert last[2].tolist() == [1001, 1002]
    assert evaluations(THEN, Guidance(3.0, guide="S"), LOG_SNR) == [
        ("S",), ("S",), ("L", "S"), ("L", "S")
    ]  # fmt: skip


def test_a_guide_needs_no_learned_variance():
    found = {"S": Recorder(100.0, learn_sigma=False), "L": Recorder(1000.0)}
    trajectory = Trajectory(
        found, Allocation.explicit("LLLL"), TIMESTEPS, torch.tensor([1]), Guidance(2.0, guide="S")
    )
    assert trajectory(torch.zeros(1, 4, 2, 2), 0).shape == (1, 8, 2, 2)


def test_a_guide_of_another_schedule_is_translated():
    found = {"S": Recorder(100.0, schedule="ldm"), "L": Recorder(1000.0)}
    first, _, _ = walk(Guidance(2.0, guide="S"), Allocation.explicit("LLLL"), found)
    # At equal log-SNR the same epsilon: only at the ends of its schedule does it differ.
    assert first[1].tolist() == pytest.approx([2 * 1001 - 101, 2 * 1002 - 102], rel=1e-4)


def test_random_embeddings_stand_for_no_class():
    found = denoisers(null_label=None, label_width=2)
    drawn = torch.tensor([[0.25, 0.5], [0.5, 0.0]])
    first, _, _ = walk(
        Guidance(3.0, guide="random-embedding"), found=found, embedding=lambda width: drawn
    )
    assert found["S"].batches == [[[1, 0], [2, 0], [0.25, 0.5], [0.5, 0.0]]] * 2
    assert first[0].tolist() == [100.75 + 3 * 0.25, 100.5 + 3 * 1.5]


def test_random_embeddings_belong_to_the_image():
    sampler = samplers.create("ddim", 4, SCHEDULE)

    def latents(indices):
        found = denoisers(null_label=None, label_width=2)
        labels = torch.ones(len(indices), dtype=torch.int64)
        guidance = Guidance(3.0, guide="random-embedding")
        return sample_latents(found, sampler, THEN, labels, guidance, 0, indices), found

    together, found = latents([4, 9])
    alone, _ = latents([9])
    torch.testing.assert_close(together[1:], alone)
    embeddings = torch.tensor(found["S"].batches[0][2:])
    assert ((embeddings >= 0) & (embeddings < 1)).all() and len(set(embeddings[:, 0].tolist())) == 2


def test_the_callback_knows_the_denoiser_and_the_evaluations_so_far():
    told = []
    sampler = samplers.create("ddim", 4, SCHEDULE)
    sample_latents(
        denoisers(), sampler, THEN, torch.tensor([1]), Guidance(3.0, steps=(1, 3)), 0, [0],
        callback=lambda **state: told.append(state),
    )  # fmt: skip
    assert [state["denoiser"] for state in told] == list(THEN.steps)
    assert [state["nfe"] for state in told] == list(itertools.accumulate([1, 2, 2, 1]))
    assert all(state.keys() == {"step", "t", "x", "x_0", "denoiser", "nfe"} for state in told)


@pytest.mark.parametrize(
    "guidance, facts, message",
    [
        (Guidance(2.0, steps=(4, 9)), {}, r"guidance.steps=\(4, 9\).* contain none of the 4 steps"),
        (Guidance(2.0, log_snr=(50, 60)), {}, r"log_snr=\(50, 60\) contain none"),
        (Guidance(2.0, guide="M"), {}, "guide='M' is unknown; known: null-class, .*S, L"),
        (Guidance(2.0), {"null_label": None}, "S has no null class.*random-embedding"),
        (Guidance(2.0, guide="random-embedding"), {}, "S takes no label embeddings"),
    ],
)
def test_guidance_that_cannot_be_is_refused(guidance, facts, message):
    with pytest.raises(InputError, match=message):
        walk(guidance, found=denoisers(**facts))


@pytest.mark.parametrize("fact, value", [("num_classes", 7), ("latent_shape", (4, 4, 4))])
def test_a_guide_with_other_classes_or_latents_is_refused(fact, value):
    found = {**denoisers(), "G": Recorder(0.0, **{fact: value})}
    with pytest.raises(InputError, match=f"S and G cannot be stitched: their {fact} differ"):
        walk(Guidance(2.0, guide="G"), found=found)
    walk(Guidance(1.0, guide="G"), found=found)  # unguided, it is not asked


@pytest.mark.parametrize("interval", [dict(steps=(3, 3)), dict(log_snr=(1.0,)), dict(steps=(4, 2))])
def test_an_interval_goes_from_low_to_high(interval):
    with pytest.raises(InputError, match="must be .low, high., low < high"):
        Guidance(2.0, **interval)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm_solver", "pndm", "heun", "unipc"])
def test_predictions_that_are_not_finite_are_located(bad, name):
    class Broken(Recorder):
        def __call__(self, x, t, y):
            output = super().__call__(x, t, y)
            output[y == 2] = bad
            return output

    found = {"S": Recorder(0.0), "L": Broken(0.0)}
    sampler = samplers.create(name, 4, SCHEDULE)
    steps = len(sampler.timesteps)
    allocation = Allocation.from_runs([("S", 2), ("L", steps - 2)])
    with pytest.raises(FloatingPointError) as error:
        sample_latents(
            found, sampler, allocation, torch.tensor([1, 2, 3, 2]), Guidance(1.0), 0, [7, 8, 9, 10]
        )
    t = f"{sampler.timesteps[2]:g}"
    assert f"of L at step 2 (timestep {t}) is not finite for images [8, 10]" in str(error.value)
