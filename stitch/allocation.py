"""Which denoiser owns which sampling step."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Allocation:
    """A sequence of denoiser names, one per sampling step, from noise to image.

    Attributes:
        steps: ``steps[i]`` is the denoiser of step i.
    """

    steps: tuple[str, ...]

    @classmethod
    def from_fractions(cls, fractions: Mapping[str, float], steps: int) -> "Allocation":
        """Give consecutive stretches of the trajectory to the denoisers in the mapping's order.

        The first denoiser takes the first round(r_1 * steps) steps (paper, sec. 3.2); with more
        denoisers every boundary is the rounded cumulative fraction, halves to even.

        Args:
            fractions: denoiser name -> share of the steps, each in [0, 1], summing to 1.
            steps: number of sampling steps.

        Raises:
            ValueError: if a fraction is negative or they do not sum to 1 (the sum is named).
        """
        for name, fraction in fractions.items():
            if not fraction >= 0:
                raise ValueError(
                    f"allocation.fractions: the fraction of {name} is {fraction:g}; it must be "
                    "0 or more"
                )
        total = sum(fractions.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"allocation.fractions={[float(f) for f in fractions.values()]} "
                f"sum to {total:.9g}; they must sum to 1"
            )
        # Cumulative sums carry rounding errors such as 0.30000000000000004: drop them first.
        cumulative = itertools.accumulate(fractions.values())
        edges = [0, *(round(round(share * steps, 6)) for share in cumulative)]
        return cls(
            tuple(
                name
                for name, (start, stop) in zip(fractions, itertools.pairwise(edges), strict=True)
                for _ in range(start, stop)
            )
        )

    @classmethod
    def explicit(cls, steps: Sequence[str]) -> "Allocation":
        """Any order of denoisers, one name per step."""
        return cls(tuple(steps))

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Run-length form: (denoiser, number of consecutive steps)."""
        return [(name, len(list(group))) for name, group in itertools.groupby(self.steps)]

    @property
    def denoisers(self) -> list[str]:
        """The names that own at least one step, in order of first use."""
        return list(dict.fromkeys(self.steps))

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
