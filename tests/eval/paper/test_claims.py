"""Claims of the paper: what is judged, and what cannot be judged of a pair in the wrong order."""

from types import SimpleNamespace

import pytest

from eval.paper import claims
from eval.paper.claims import Claim, Data, judge
from stitch import Allocation


class Known(Data):
    """One line of one figure, with these FIDs by share."""

    def __init__(self, fids):
        self.thresholds = SimpleNamespace(free=0.03, free_share=0.4, safe=0.15)
        self.fids = fids

    def points(self, figure):
        return [
            (self._point(share), {"metrics": {"fid": fid}, "timing": {}})
            for share, fid in self.fids.items()
        ]

    def _point(self, share):
        allocation = Allocation.from_fractions({"LDM-S": share, "LDM": 1 - share}, 10)
        settings = {"sampler": {"name": "ddim", "steps": 10}}
        run = SimpleNamespace(allocation=allocation, settings=settings)
        return SimpleNamespace(panel=0, series=0, fractions=(share, 1 - share), run=run)


CHECKS = {
    "free": claims.early_steps_are_free,
    "safe": lambda data: claims.early_steps_are_safe(data, data.lines("fig09")),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "fids, holds",
    [
        ({0.0: 0.40, 0.4: 0.41, 1.0: 1.09}, "yes"),
        ({0.0: 0.40, 0.4: 0.80, 1.0: 1.09}, "**no**"),
        ({0.0: 0.92, 0.4: 0.79, 1.0: 0.56}, "not testable"),
        ({0.0: 0.56, 0.4: 0.56, 1.0: 0.56}, "not testable"),
    ],
)
def test_a_claim_about_a_pair_needs_the_large_one_to_be_the_better_one(check, fids, holds):
    row = judge(Claim("S", "R", CHECKS[check]), Known(fids))
    assert row[:2] == ("S", "R")
    assert row[3] == holds
    if holds == "not testable":
        assert row[2] == (
            f"not testable here: FID {fids[0.0]:.3f} of LDM alone is not below {fids[1.0]:.3f} "
            "of LDM-S alone"
        )
