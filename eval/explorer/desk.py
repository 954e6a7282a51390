"""What the page's controls do; knows nothing of browsers but their names."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence

from eval.explorer import drawn, recorded
from eval.explorer.setting import Setting
from eval.explorer.studio import Studio
from eval.explorer.walking import View, Walker
from models.errors import InputError
from stitch.runs.run import Run

_KEPT = 64  # runs of the largest denoiser alone


class Desk:
    """What the controls do. The browsers share it, but for who stops what.

    Args:
        studio: the zoo and its runs.
        folders: of records.
    """

    def __init__(self, studio: Studio, folders: Sequence[str]):
        self.studio, self._folders = studio, folders
        self._walker = Walker(lambda: studio.preview)
        self._pure: dict[str, View] = {}  # final images of the largest denoiser alone, by run
        self._stops: dict[str, threading.Event] = {}  # by browser
        self._reading, self._recorded = threading.Lock(), None

    @property
    def records(self) -> recorded.Recorded:
        """The records of the zoo, looked through when first asked for: it takes seconds."""
        with self._reading:
            if self._recorded is None:
                self._recorded = recorded.recorded(self.studio, self._folders)
            return self._recorded

    def warm_up(self) -> None:
        """Load and evaluate what the first setting needs, so that it need not be waited for."""
        for setting in (self.studio.first, self.studio.first.pure):
            self._walker.warm_up(self.studio.run(setting))

    def described(self, setting: Setting) -> list[str]:
        """Timeline, command and Python of a setting."""
        run, pure = self.studio.run(setting), self.studio.run(setting.pure)
        return [
            drawn.timeline(run, pure, self.studio.offer.denoisers),
            self.studio.command(setting),
            self.studio.python(setting),
        ]

    def frontier(self, setting: Setting) -> str:
        """Where a setting lies among the records."""
        run, pure = self.studio.run(setting), self.studio.run(setting.pure)
        return drawn.frontier(self.records, run, pure, self.studio.zoo.name)

    def point(self, index: object, setting: Setting) -> Setting:
        """The setting of a point of the frontier, of the class and the seed of ``setting``.

        Raises:
            InputError: if there is no such point.
        """
        points = self.records.points
        if type(index) is not int or not 0 <= index < len(points):
            raise InputError("there is no such point on the frontier; load the page again")
        return dataclasses.replace(points[index].setting, label=setting.label, seed=setting.seed)

    def empty(self, setting: Setting) -> str:
        """Room for images."""
        return self._cards(setting, [None, None], ["not sampled yet", ""])

    def sampled(self, setting: Setting, browser: str | None) -> Iterator[str]:
        """Images of a setting, then of the largest denoiser alone, step by step, as HTML.

        The latter are kept: they are the same while only shares are changed.

        Args:
            browser: may ``stop`` it, and does when it begins another one; None: nobody may.

        Raises:
            FloatingPointError: if a prediction is not finite.
        """
        stop = threading.Event()
        self.stop(browser)
        if browser is not None:
            self._stops[browser] = stop
        try:
            for cards in self._sampled(setting, stop):
                if stop.is_set() and self._stops.get(browser) is not stop:
                    return  # the cards are another one's now
                yield cards
        finally:
            if self._stops.get(browser) is stop:
                del self._stops[browser]

    def stop(self, browser: str | None) -> None:
        """End what a browser samples, after the step in hand."""
        if browser in self._stops:
            self._stops[browser].set()

    def _sampled(self, setting: Setting, stop: threading.Event) -> Iterator[str]:
        run, pure = self.studio.run(setting), self.studio.run(setting.pure)
        views: list[View | None] = [None, self._pure.get(pure.id)]
        notes = ["starts when the networks are loaded and nobody else samples", ""]
        yield self._cards(setting, views, notes)
        for index, one in enumerate((run, pure)):
            if index and run.id == pure.id:
                views[1] = views[0]
            if views[index] is None:
                for view in self._walker.views(one, stop):
                    views[index], notes[index] = view, _underway(one, view)
                    yield self._cards(setting, views, notes)
                if stop.is_set():
                    done = views[index].step if views[index] else 0
                    notes[index] = f"stopped after step {done} of {len(one.allocation)}"
                    yield self._cards(setting, views, notes)
                    return
            notes[index] = f"{views[index].seconds:.2f} s for {one.num_images} images"
        ours, theirs = views
        self._keep(pure.id, theirs)
        notes[0] += f", {theirs.seconds / ours.seconds:.2f} times as fast"
        yield self._cards(setting, views, notes)

    def _cards(self, setting: Setting, views: Sequence[View | None], notes: Sequence[str]) -> str:
        titles = ("This setting", f"{self.studio.offer.denoisers[-1]} alone")
        parts = zip(titles, (setting, setting.pure), views, notes, strict=True)
        return drawn.comparison(
            [drawn.card(title, self.studio.run(one), one, *rest) for title, one, *rest in parts]
        )

    def _keep(self, name: str, view: View) -> None:
        self._pure[name] = view
        if len(self._pure) > _KEPT:
            self._pure.pop(next(iter(self._pure)), None)


def _underway(run: Run, view: View) -> str:
    owner = run.allocation.steps[view.step - 1]
    return f"step {view.step} of {len(run.allocation)}, {owner}; {view.seconds:.2f} s"
