"""Which denoiser owns which sampling step."""

import bisect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InputError
from samplers import check


@dataclass(frozen=True)
class Allocation:
    """A sequence of denoiser names, one per sampling step, from noise to image.

    A step is one evaluation of the network: entry i of the sampler's ``timesteps``.

    Attributes:
        steps: ``steps[i]`` is the denoiser of step i.
    """

    steps: tuple[str, ...]

    @classmethod
    def from_fractions(
        cls,
        fractions: Mapping[str, float],
        steps: int,
        rounding: Callable[[float], int] = round,
    ) -> "Allocation":
        """Give consecutive stretches of the trajectory to the denoisers in the mapping's order.

        The first denoiser takes the first round(r_1 * steps) steps (paper, sec. 3.2); with more
        denoisers every boundary is the rounded cumulative fraction, halves to even.

        Args:
            fractions: denoiser name -> share of the steps, each in [0, 1], summing to 1.
            steps: number of sampling steps.
            rounding: of the boundaries; the official text-to-image code's is ``math.floor``.

        Raises:
            InputError: if a fraction is negative or they do not sum to 1 (the sum is named).
        """
        check_fractions(fractions)
        check.whole("steps", steps, least=1)
        # Cumulative sums carry rounding errors such as 0.30000000000000004: drop them first. Their
        # end counts as 1, which thrice 0.3333333 are not.
        cumulative = list(itertools.accumulate(fractions.values()))
        shares = [share / cumulative[-1] for share in cumulative]
        edges = [0, *(rounding(round(share * steps, 6)) for share in shares)]
        counts = (stop - start for start, stop in itertools.pairwise(edges))
        return cls.from_runs(zip(fractions, counts, strict=True))

    @classmethod
    def from_threshold(
        cls,
        fractions: Mapping[str, float],
        timesteps: Sequence[int],
        num_timesteps: int = 1000,
        strict: bool = False,
    ) -> "Allocation":
        """The official repository's rule: compare the timestep, not the step, with the fractions.

        Two denoisers: the first owns a step iff t / T >= 1 - r (its DiT code) or, with ``strict``,
        iff r = 1 or t / T > 1 - r (its LDM code, whose timesteps are one higher). With more,
        the owner is the first denoiser whose float32 cumulative fraction is at least 1 - t / T. At
        the paper's settings this is ``from_fractions``; at finer fractions it is up to one step
        off.

        Args:
            fractions: as for ``from_fractions``.
            timesteps: the sampler's, in sampling order; T is ``num_timesteps``.
        """
        check_fractions(fractions)
        names = list(fractions)
        if len(names) == 2:
            small, large = names
            threshold = 1 - fractions[small]

            def owner(t: float) -> str:
                above = t / num_timesteps > threshold if strict else t / num_timesteps >= threshold
                return small if above or (strict and fractions[small] == 1) else large
        else:
            cumulative = np.cumsum(np.array(list(fractions.values()), dtype=np.float32))

            def owner(t: float) -> str:
                progress = np.float32(1 - t / num_timesteps)
                return names[min(int(np.searchsorted(cumulative, progress)), len(names) - 1)]

        return cls(tuple(owner(t) for t in timesteps))

    @classmethod
    def from_switch_snr(
        cls, names: Sequence[str], switches: Sequence[float], log_snr: Sequence[float]
    ) -> "Allocation":
        """Hand over to the next denoiser at the first step whose log-SNR reaches a switch.

        Unlike a fraction, a switch means the same noise level for every schedule, spacing and
        number of steps.

        Args:
            names: K denoisers, from noise to image.
            switches: K - 1 ascending values of log(alpha^2 / sigma^2).
            log_snr: the log-SNR of every step, such as ``schedule.log_snr(sampler.timesteps)``.
        """
        switches = check.numbers("allocation.switches", switches)
        if len(switches) != len(names) - 1 or switches != sorted(switches):
            raise InputError(
                f"allocation.switches={switches} must be {len(names) - 1} ascending log-SNR values "
                f"for the {len(names)} denoisers {', '.join(names)}"
            )
        return cls(tuple(names[bisect.bisect_right(switches, value)] for value in log_snr))

    @classmethod
    def from_runs(cls, runs: Iterable[tuple[str, int]]) -> "Allocation":
        """The inverse of ``runs``: (denoiser, number of consecutive steps) in order."""
        return cls(tuple(name for name, count in runs for _ in range(count)))

    @classmethod
    def parse(cls, text: str) -> "Allocation":
        """The inverse of ``str``: ``DiT-S*40+DiT-XL*60``.

        Raises:
            InputError: naming the part that is not ``NAME*COUNT``.
        """
        runs = []
        for part in text.split("+"):
            match = re.fullmatch(r"\s*(\S+?)\s*\*\s*([1-9]\d*)\s*", part)
            if not match:
                raise InputError(
                    f"allocation {text!r}: {part!r} is not NAME*COUNT, as in DiT-S*40+DiT-XL*60"
                )
            runs.append((match[1], int(match[2])))
        return cls.from_runs(runs)

    @classmethod
    def explicit(cls, steps: Sequence[str]) -> "Allocation":
        """Any order of denoisers, one name per step."""
        return cls(tuple(steps))

    @classmethod
    def large_to_small(cls, fractions: Mapping[str, float], steps: int) -> "Allocation":
        """``from_fractions`` reversed: the same counts, the last denoiser first (Table 7)."""
        return cls(cls.from_fractions(fractions, steps).steps[::-1])

    @classmethod
    def interleave(cls, fractions: Mapping[str, float], steps: int) -> "Allocation":
        """``from_fractions`` evenly spread: the same counts; halves alternate (Table 7)."""
        counts = cls.from_fractions(fractions, steps).counts
        # Step k of n sits at (k + 1/2) / n of the trajectory; the sort keeps the order of ties.
        places = [((2 * k + 1) / n, name) for name, n in counts.items() for k in range(n)]
        return cls(tuple(name for _, name in sorted(places, key=lambda place: place[0])))

    @classmethod
    def decreasing_probability(
        cls, small: str, large: str, steps: int, seed: int = 0
    ) -> "Allocation":
        """``small`` with a probability that falls linearly from 1 to 0 along the steps (Table 7).

        Drawn once, here: all images of a run share the allocation.
        """
        draws = np.random.Generator(np.random.Philox(seed)).random(steps)
        probabilities = np.linspace(1, 0, steps)
        return cls(tuple(np.where(draws < probabilities, small, large).tolist()))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Run-length form: (denoiser, number of consecutive steps)."""
        return [(name, len(list(group))) for name, group in itertools.groupby(self.steps)]

    @property
    def denoisers(self) -> list[str]:
        """The names that own at least one step, in order of first use."""
        return list(dict.fromkeys(self.steps))

    @property
    def counts(self) -> dict[str, int]:
        """Denoiser name -> number of steps it owns, in order of first use."""
        return {name: self.steps.count(name) for name in self.denoisers}

    @property
    def switches(self) -> list[int]:
        """The steps whose denoiser differs from the previous step's."""
        return [i for i in range(1, len(self)) if self.steps[i] != self.steps[i - 1]]

    def interval(
        self, name: str, timesteps: Sequence[int], num_timesteps: int = 1000
    ) -> tuple[int, int]:
        """The timesteps [low, high) on which to fine-tune ``name``.

        The denoisers' intervals partition [0, T): a step covers the timesteps from its own down to,
        but excluding, the next step's.

        Raises:
            InputError: unless ``name`` owns one stretch of the trajectory.
        """
        owned = [i for i, owner in enumerate(self.steps) if owner == name]
        if not owned or len(owned) != owned[-1] - owned[0] + 1:
            raise InputError(f"{name} does not own one stretch of the allocation {self}")
        high = num_timesteps if owned[0] == 0 else timesteps[owned[0]] + 1
        low = 0 if owned[-1] == len(self) - 1 else timesteps[owned[-1] + 1] + 1
        return low, high

    def cost(self, costs: Mapping[str, float]) -> float:
        """Cost of one trajectory, given the cost of one step of each denoiser (any unit)."""
        return sum(costs[name] for name in self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        return "+".join(f"{name}*{count}" for name, count in self.runs)


def simplex(parts: int, resolution: int) -> list[tuple[float, ...]]:
    """All fractions of ``parts`` denoisers in steps of 1 / resolution; 66 for (3, 10).

    Sorted from all-last to all-first, so that neighbours in the list are neighbours in cost.
    """
    return [
        tuple(count / resolution for count in counts)
        for counts in itertools.product(range(resolution + 1), repeat=parts)
        if sum(counts) == resolution
    ]


def check_fractions(fractions: Mapping[str, float], setting: str = "allocation.fractions") -> None:
    """Raise InputError, naming the ``setting``, unless all are 0 or more and they sum to 1."""
    for name, fraction in fractions.items():
        if not check.number(f"{setting}: the fraction of {name}", fraction) >= 0:
            raise InputError(
                f"{setting}: the fraction of {name} is {fraction:g}; it must be 0 or more"
            )
    total = sum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise InputError(
            f"{setting}={[float(f) for f in fractions.values()]} "
            f"sum to {total:.9g}; they must sum to 1"
        )
