"""Which timesteps a sampler visits, in sampling order (descending)."""


def trailing_inclusive(steps: int, num_timesteps: int = 1000) -> list[int]:
    """The paper's spacing: ``steps`` integers from T - 1 to 0, both ends included.

    Timestep i (ascending) is round(i * (T - 1) / (steps - 1)), halves to even, with the stride
    accumulated as DiT's respacing ("100", not "ddim100") does, so that the roundings agree.

    Raises:
        ValueError: if ``steps`` is not in [2, T].
    """
    check_steps(steps, 2, num_timesteps)
    stride = (num_timesteps - 1) / (steps - 1)
    position, ascending = 0.0, []
    for _ in range(steps):
        ascending.append(round(position))
        position += stride
    return ascending[::-1]


def time_uniform(steps: int, num_timesteps: int = 1000) -> list[float]:
    """DPM-Solver's spacing: ``steps + 1`` equidistant fractional times from T - 1 to 0.

    The last one is where sampling stops; the network is called at the others.

    Raises:
        ValueError: if ``steps`` is not in [1, T].
    """
    check_steps(steps, 1, num_timesteps)
    return [(num_timesteps - 1) * (1 - i / steps) for i in range(steps + 1)]


def check_steps(steps: int, fewest: int, most: int) -> None:
    """Raise ValueError unless ``steps`` is a whole number in [fewest, most]."""
    if type(steps) is not int or not fewest <= steps <= most:
        raise ValueError(f"sampler.steps={steps} must be a whole number from {fewest} to {most}")
