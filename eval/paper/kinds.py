"""Kinds of figures: from points and what was recorded of them to panels, tables and grids."""

from collections.abc import Callable

from eval.markdown import markdown
from eval.paper import plots, tables
from eval.paper.curves import curves
from eval.paper.drawing import Drawing
from eval.paper.grids import grid
from eval.paper.pareto import pareto
from models.errors import InputError
from stitch.analysis import cosine_similarity, log_amplitude_spectrum


def similarity(drawing: Drawing) -> None:
    """Cosine similarity of the latents of two denoisers after every step."""
    lines = []
    for s, series in enumerate(drawing.figure["series"]):
        (first, (one, timesteps)), (_, (other, _)) = drawing.of(0, s)
        mean = cosine_similarity(one, other).mean(1).tolist()
        label = drawing.text(series["label"], first)
        lines.append(plots.Curve(label, timesteps, mean, "bare", s))
    panel = plots.Panel("", "timestep of the step (noise: 999)", "cosine similarity", lines)
    plots.panels(drawing.path, [[panel]], drawing.title, drawing.caption, reverse_x=True)


def spectrum(drawing: Drawing) -> None:
    """Log amplitude of the latents by frequency, a line for every step."""
    ((_, (states, timesteps)),) = drawing.of(0, 0)
    spectra = log_amplitude_spectrum(states).tolist()
    count = len(spectra[0])
    frequencies = [2 * k / states.shape[-1] for k in range(count)]
    lines = [
        plots.Curve(f"t = {t:g}", frequencies, values, "bare", plots.shade(i / (len(spectra) - 1)))
        for i, (t, values) in enumerate(zip(timesteps, spectra, strict=True))
    ]
    panel = plots.Panel("", "frequency / π", "mean log amplitude", lines)
    plots.panels(drawing.path, [[panel]], drawing.title, drawing.caption, outside_legend=True)


def table(drawing: Drawing) -> None:
    """Rows of numbers, ours beside the paper's, as Markdown."""
    columns, rows = tables.build(drawing)
    text = markdown(columns, rows)
    drawing.path.with_suffix(".md").write_text(
        f"**{drawing.title}**\n\n{text}\n\n{drawing.caption}\n"
    )


# kind -> what draws it; a kind draws from records, samples or trajectories.
KINDS: dict[str, Callable[[Drawing], None]] = {
    "curves": curves,
    "pareto": pareto,
    "grid": grid,
    "similarity": similarity,
    "spectrum": spectrum,
    "table": table,
}


def check_kinds(figures: dict[str, dict]) -> None:
    """Raise InputError if a figure is of an unknown kind."""
    for name, figure in figures.items():
        if figure["kind"] not in KINDS:
            raise InputError(
                f"figure.{name}.kind={figure['kind']} is unknown; known: {', '.join(KINDS)}"
            )
