"""The images of a run, step by step: a walk that can be watched, timed and stopped."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from models.first_stage import FirstStage
from stitch.runs.run import Run
from stitch.runs.warmup import prepare
from stitch.sampling import decoded

_PATIENCE = 120  # seconds until who does not ask for the next view is taken to have left
_GLANCE = 0.1  # seconds: how often somebody who waits looks whether it is over


@dataclass(frozen=True)
class View:
    """Images on their way.

    Attributes:
        images: (B, H, W, C) uint8: the final ones, or a preview of what the state predicts.
        step: steps done.
        seconds: of sampling so far, without previews; of the final images with decoding.
        done: whether they are the final ones.
    """

    images: np.ndarray
    step: int
    seconds: float
    done: bool


class Stopped(Exception):
    """A walk was stopped between two steps."""


class Walker:
    """Walks one run at a time, however many pages ask for one.

    Args:
        preview: decodes what the state predicts after every step.
    """

    def __init__(self, preview: Callable[[], FirstStage]):
        self._preview, self._alone = preview, threading.Lock()
        self._warm: set[tuple] = set()

    def views(self, run: Run, stop: threading.Event) -> Iterator[View]:
        """The images of a run's first batch after every step, the final ones last.

        The walk waits while a view is looked at, and its clock stands still. If the iterator is
        closed, the walk stops.

        Args:
            stop: set by whoever wants it to stop after the step in hand; views then end.

        Raises:
            FloatingPointError: if a prediction is not finite.
        """
        arrived: queue.Queue[View | BaseException | None] = queue.Queue()
        looked, left = threading.Semaphore(0), threading.Event()

        def over() -> bool:
            return stop.is_set() or left.is_set()

        def show(view: View) -> None:
            arrived.put(view)
            waited = 0.0
            while not looked.acquire(timeout=_GLANCE) and not over():
                waited += _GLANCE
                if waited >= _PATIENCE:
                    left.set()

        def work() -> None:
            try:
                while not self._alone.acquire(timeout=_GLANCE):
                    if over():
                        raise Stopped
                try:
                    arrived.put(self._walk(run, show, over))
                finally:
                    self._alone.release()
                arrived.put(None)
            except BaseException as error:
                arrived.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            while not isinstance(view := arrived.get(), Stopped | None):
                if isinstance(view, BaseException):
                    raise view
                yield view
                looked.release()
        finally:
            left.set()
            looked.release()

    def warm_up(self, run: Run) -> None:
        """Load what a run needs and evaluate it once, while nobody waits."""
        with self._alone:
            self._preview()
            self._warm_up(run)

    def _walk(self, run: Run, show: Callable[[View], None], over: Callable[[], bool]) -> View:
        preview = self._preview()
        self._warm_up(run)
        if over():
            raise Stopped
        steps, seconds = len(run.allocation), 0.0
        started = _now(run)

        def after(step: int, x_0: torch.Tensor, **_) -> None:
            nonlocal seconds, started
            seconds += _now(run) - started
            images = preview.decode(x_0).permute(0, 2, 3, 1).cpu().numpy()
            show(View(images, step + 1, seconds, done=False))
            if over():
                raise Stopped
            started = _now(run)

        latents = run.walk(range(run.num_images), callback=after)
        images = decoded(run.zoo, latents).cpu().numpy()
        return View(images, steps, seconds + _now(run) - started, done=True)

    @torch.no_grad()
    def _warm_up(self, run: Run) -> None:
        """Load the networks, and evaluate each once: the first time takes several times as long."""
        prepare(run)
        indices = range(run.num_images)
        for step, names in enumerate(run.evaluations):
            if (run.zoo, names) not in self._warm:
                shape = run.zoo.specs[names[0]].latent_shape
                x = torch.zeros(len(indices), *shape, device=run.zoo.device)
                run.denoise(indices)(x, step)
                decoded(run.zoo, x)
                self._warm.add((run.zoo, names))


def _now(run: Run) -> float:
    """Seconds by a clock, when the device has done what it was given."""
    if run.zoo.device.type != "cpu":
        torch.accelerator.synchronize(run.zoo.device)
    return time.perf_counter()
