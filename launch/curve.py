"""The learning curve of a training run as a picture."""

import contextlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..controllers.files import replacing
from ..learners import logs
from ..learners.run_folder import RunFolder, Saved
from ..learners.training import Piece

PERIOD = 60.0
"""Time between two drawings while training goes on [s]."""
WINDOW = 0.1
"""Share of the pieces that the running mean is taken of."""
PANELS = 6
"""How many metrics of what is learned have a panel: those whose names have a slash."""
IDEAL = {"model/coverage90": 0.9, "model/calibration_error": 0.0}
"""Where a metric would be at best."""

_INK, _PALE = "#1f4e79", "#9db8d2"


class CurveFile:
    """An observer that renews the picture once a minute."""

    def __init__(self, folder: RunFolder, title: str) -> None:
        self._folder, self._title = folder, title
        self._drawn = -math.inf

    def start(self, saved: Saved, steps: int) -> None:
        """Nothing to draw yet."""
        self._drawn = time.monotonic()

    def note(self, text: str) -> None:
        """No part of the picture."""

    def watch(self, doing: str, numbers: Mapping[str, float]) -> None:
        """No part of the picture."""

    def piece(self, piece: Piece) -> None:
        """Draws, if the last picture is old."""
        if time.monotonic() - self._drawn >= PERIOD:
            # Whoever trains draws once more at the end, and is told if that can not be written.
            with contextlib.suppress(OSError):
                draw(self._folder, self._title)
            self._drawn = time.monotonic()

    def end(self) -> None:
        """What was drawn stays."""


def draw(folder: RunFolder, title: str) -> Path | None:
    """Draws `curve.png` of the run in `folder`; None where there is nothing to draw yet.

    Raises:
        OSError: it could not be written.
        ValueError: the table of metrics is none.
    """
    rows = logs.read(folder.metrics)
    if not rows:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = folder.path / "curve.png"
    with replacing(path) as temporary:
        FigureCanvasAgg(figure(rows, title)).print_png(temporary)
    return path


def figure(rows: list[dict[str, float]], title: str) -> Any:
    """Return of each piece against control steps and time, and below it metrics of what is learned.

    Args:
        rows: of the table of metrics, at least one.
        title: above.
    """
    from matplotlib.figure import Figure

    steps, spent = (np.array([row[name] for row in rows]) for name in ("steps", "wall_s"))
    unit, length = ("minutes", 60.0) if spent[-1] > 120.0 else ("seconds", 1.0)
    spent = spent / length
    panels = [name for name in rows[0] if "/" in name and any(math.isfinite(row[name]) for row in rows)][:PANELS]
    columns = min(3, len(panels))
    below = math.ceil(len(panels) / 3)
    shape = Figure(figsize=(8.0, 4.2 + 1.9 * below), dpi=110, layout="constrained")
    grid = shape.add_gridspec(1 + below, columns or 1, height_ratios=[2.2] + [1.0] * below)
    main = shape.add_subplot(grid[0, :])
    main.set_title(title, loc="left")
    name = "return" if "return" in rows[0] else next((n for n in rows[0] if n not in logs.FIRST), "wall_s")
    score = np.array([row[name] for row in rows])
    there = np.isfinite(score)  # not every piece ends with an evaluation
    main.plot(steps[there], score[there], "o-", color=_PALE, markersize=4, linewidth=1.0, label="each")
    if there.sum() > 2:
        window = max(3, round(WINDOW * there.sum()))
        mean = running_mean(score[there], window)
        main.plot(steps[there], mean, color=_INK, linewidth=2.0, label=f"mean of the last {window}")
    main.set_ylabel(name)
    main.set_xlabel("control steps")
    main.legend(loc="lower right", frameon=False)
    _plain(main)
    if len(rows) > 1 and np.all(np.diff(spent) > 0.0) and np.all(np.diff(steps) > 0.0):
        # Pieces take unequal times, so that the upper axis' ticks are where that much time had been spent.
        by_steps, by_time = _extended(steps), _extended(spent)
        upper = main.secondary_xaxis(
            "top",
            functions=(lambda x: np.interp(x, by_steps, by_time), lambda t: np.interp(t, by_time, by_steps)),  # type: ignore[arg-type]
        )
        upper.set_xlabel(unit)
    for k, metric in enumerate(panels):
        panel = shape.add_subplot(grid[1 + k // 3, k % 3])
        panel.plot(steps, [row[metric] for row in rows], ".-", color=_INK, markersize=4, linewidth=1.2)
        if metric in IDEAL:
            panel.axhline(IDEAL[metric], color=_PALE, linestyle="--", linewidth=1.0)
        panel.set_title(metric.partition("/")[2].replace("_", " "), fontsize=9, loc="left")
        panel.tick_params(labelsize=8)
        panel.locator_params(axis="x", nbins=4)
        _plain(panel)
    return shape


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean (n,) of each of `values` (n,) and those before it, of `window` together; of fewer at the beginning."""
    values = np.asarray(values, float)
    return np.array([values[max(0, k + 1 - window) : k + 1].mean() for k in range(len(values))])


def _extended(values: np.ndarray) -> np.ndarray:
    """`values` from the beginning of training, at 0, to well beyond its end, at the same rate on the whole."""
    return np.concatenate([[0.0], values, [2.0 * values[-1]]])


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0.0)
