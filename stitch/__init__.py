"""Trajectory stitching: which denoiser takes which part of the sampling trajectory."""

from stitch.allocation import Allocation, simplex
from stitch.cache import Forecast
from stitch.pareto import pareto_frontier
from stitch.prefix import SharedPrefix, shared_evaluations
from stitch.sampling import sample
from stitch.trajectory import Trajectory, Wrapper, evaluations

__all__ = [
    "Allocation",
    "Forecast",
    "SharedPrefix",
    "Trajectory",
    "Wrapper",
    "evaluations",
    "pareto_frontier",
    "sample",
    "shared_evaluations",
    "simplex",
]
