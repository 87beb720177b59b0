"""What a person sees of a run: the progress bar while it goes on, the table of its result."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..controllers.episode import Episode
from ..controllers.interface import Timing
from ..controllers.plan import Plan
from ..robots.task import Task
from ..sim.interface import Scene, State
from .scenario import Setup

PERIOD = 0.1
"""Time between two drawings of the progress bar [s]."""


class ProgressBar:
    """An observer that shows a bar with the steps done, the return so far and the planning time."""

    draws = False
    period = PERIOD

    def __init__(self, console: Console, setup: Setup) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("return {task.fields[score]:.1f}  plan {task.fields[plan_ms]:.1f} ms"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
        )
        self._bar = self._progress.add_task(setup.scenario, total=setup.steps, score=0.0, plan_ms=0.0)
        self._return = 0.0
        self._drawn = -math.inf
        self._seen = 0

    def start(self, scene: Scene | None, task: Task) -> None:
        """Shows the empty bar."""
        self._progress.start()

    def step(self, state: State, u: np.ndarray, plan: Plan | None, timing: Timing) -> None:
        """Moves on; draws ten times a second."""
        self._return += timing.reward
        self._seen = timing.step
        now = time.monotonic()
        if now - self._drawn >= PERIOD:
            self._drawn = now
            plan_ms = 0.0 if math.isnan(timing.plan_ms) else timing.plan_ms
            self._progress.update(self._bar, completed=timing.step, score=self._return, plan_ms=plan_ms)
            self._progress.refresh()

    def end(self, episode: Episode) -> None:
        """Draws the bar as it ended."""
        median = float(np.median(episode.plan_ms)) if len(episode.plan_ms) else 0.0
        self._progress.update(self._bar, completed=len(episode), score=episode.return_, plan_ms=median)
        self._progress.stop()


def result_of(episode: Episode, setup: Setup, recording: str | None, controller: str | None = None) -> dict[str, Any]:
    """The run in numbers, JSON types only: the object that `--json` writes.

    Args:
        episode: the run.
        setup: what was run.
        recording: where it is kept, if it is.
        controller: folder of what drove it in place of the planner, or None.
    """
    summary = episode.summary()
    return {
        "scenario": setup.scenario,
        "task": setup.task.name,
        "controller": controller,
        "planner": setup.planner_name if controller is None else None,
        "dynamics": setup.dynamics if controller is None else None,
        "simulator": setup.simulator,
        "seed": episode.seed,
        "clock": episode.clock,
        "steps": summary["steps"],
        "return": _finite(summary["return"]),
        "cost": _finite(summary["cost"]),
        "success": summary["success"],
        "plan_ms": summary["plan_ms"],
        "deadline_misses": summary["deadline_misses"],
        "dropped_frames": summary["dropped_frames"],
        "fallbacks": summary["fallbacks"],
        "recording": recording,
        "wall_s": summary["wall_s"],
    }


def result_table(result: Mapping[str, Any], episode: Episode) -> Table:
    """The result for people."""
    table = Table(show_header=False, title=f"{result['scenario']}: {episode.status}", title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    plan = result["plan_ms"]
    driver = {"planner": f"{result['planner']} on {result['dynamics']}"}
    if result["controller"] is not None:
        driver = {"controller": result["controller"]}
    simulated = float(episode.time[-1] - episode.time[0])
    rows = {
        "task": f"{result['task']} on {result['simulator']}",
        **driver,
        "seed, clock": f"{result['seed']}, {result['clock']}",
        "steps": f"{result['steps']} of {1e3 * episode.dt:g} ms",
        "return": _number(result["return"], ".1f"),
        "cost": _number(result["cost"], ".1f"),
        "success": "yes" if result["success"] else "no",
        "plan": "-" if plan["p50"] is None else f"{plan['p50']:.1f} ms median, {plan['p99']:.1f} ms 99th percentile",
        "deadline misses": str(result["deadline_misses"]) if result["clock"] == "wall" else "- (virtual clock)",
        "fallbacks": str(result["fallbacks"]),
        "took": f"{result['wall_s']:.1f} s for {simulated:.1f} s",
        "recording": result["recording"] or "off",
    }
    if lost := int(np.isposinf(episode.plan_cost).sum()):
        rows["plan"] += f"; {lost} of {len(episode.plan_cost)} without a finite cost"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _finite(value: float) -> float | None:
    # JSON has no NaN and no infinity.
    return value if math.isfinite(value) else None
