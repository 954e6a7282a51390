"""Pareto frontiers."""

from collections.abc import Sequence


def pareto_frontier(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of the points that no other point beats, by ascending cost.

    Args:
        costs: lower is better.
        qualities: lower is better (negate Inception Scores).
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], qualities[i]))
    frontier, best = [], float("inf")
    for i in order:
        if qualities[i] < best:
            frontier.append(i)
            best = qualities[i]
    return frontier
