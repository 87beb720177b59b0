"""What a person sees of training: how far it is, what it is doing, and a line for each piece that is done."""

import contextlib
import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..learners.run_folder import Saved
from ..learners.training import Piece

METRICS, LEARNED = 6, 4
"""How many of a learner's metrics have a column, the first ones; how many of these may tell of what is learned."""

_WIDTHS = {"piece": 5, "steps": 7}
_WIDTH = 8


class TrainingDisplay:
    """An observer that shows a bar with the steps done, what is being done, and a line for each piece.

    Where `console` is no terminal there are only the lines.

    Args:
        console: where it is shown.
        title: beside the bar.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        # Pieces take minutes at times: the time left is told from the last half hour.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=1800.0,
        )
        self._bar = self._progress.add_task(title)
        self._doing = Text("", no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._progress, self._doing), console=console, refresh_per_second=5)
        self._columns: list[str] = []
        self._done = 0.0  # control steps before the piece under way

    def start(self, saved: Saved, steps: int) -> None:
        """Shows the bar."""
        self._done = saved.steps
        self._progress.update(self._bar, completed=saved.steps, total=steps)
        if self._console.is_terminal:
            self._live.start()

    def note(self, text: str) -> None:
        """Prints it."""
        self._console.print(text, soft_wrap=True)

    def watch(self, doing: str, numbers: Mapping[str, float]) -> None:
        """Shows it below the bar; a number called `step`, control steps within the piece, moves that on."""
        self._doing.plain = ", ".join([doing, *(f"{name} {number(value)}" for name, value in numbers.items())])
        if "step" in numbers:
            self._progress.update(self._bar, completed=self._done + numbers["step"])

    def piece(self, piece: Piece) -> None:
        """Prints the piece's line."""
        metrics = {name: value for name, value in piece.row.items() if name not in ("piece", "steps", "wall_s")}
        shown: dict[str, str] = {
            "piece": number(piece.row["piece"]),
            "steps": number(piece.row["steps"]),
            "time": duration(piece.row["wall_s"]),
        }
        learned = [name for name in metrics if "/" in name][:LEARNED]
        others = [name for name in metrics if "/" not in name]
        for name in others[: METRICS - len(learned)] + learned:
            shown[name.rpartition("/")[2]] = number(metrics[name])
            if name == "return" and piece.best is not None:
                shown["best"] = number(piece.best)
        if list(shown) != self._columns:
            self._columns = list(shown)
            self._line({name: name for name in shown})
        self._line(shown)
        self._done = piece.row["steps"]
        self._progress.update(self._bar, completed=self._done)

    def end(self) -> None:
        """Leaves the bar as it is."""
        self._doing.plain = ""
        self._live.stop()
        self._console.show_cursor()

    def _line(self, cells: Mapping[str, str]) -> None:
        """Prints `cells` by column, as many as the console is wide enough for."""
        line = ""
        for name, cell in cells.items():
            more = f"{cell:>{max(len(name), _WIDTHS.get(name, _WIDTH))}}  "
            if len(line + more.rstrip()) > self._console.width:
                break
            line += more
        self._console.print(line.rstrip())


@contextlib.contextmanager
def progress_of(console: Console, title: str, episodes: int) -> Iterator[Callable[[int, Any], None]]:
    """A bar of episodes, moved on by what it gives: called with their number so far, and the last one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=episodes)
        yield lambda k, episode: progress.update(bar, completed=k)


def evaluation_table(result: Mapping[str, Any]) -> Table:
    """The result of `trimtab eval` for people."""
    title = f"{result['learner']} on {result['scenario']}, after {result['steps']} steps"
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    interval = "" if result["iqm_low"] is None else f"   95 %: {_or(result['iqm_low'])} to {_or(result['iqm_high'])}"
    lengths = result["lengths"]
    same = min(lengths) == max(lengths)
    rows = {
        "checkpoint": result["checkpoint"],
        "episodes": f"{result['episodes']}, of {lengths[0] if same else f'{min(lengths)} to {max(lengths)}'} steps",
        "return": f"{_or(result['mean'])} +- {_or(result['std'])}",
        "interquartile mean": _or(result["iqm"]) + interval,
        "success": f"{100.0 * result['success']:.0f} %",
        "failed": str(result["failed"]),
        "took": f"{result['wall_s']:.1f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def number(value: float) -> str:
    """A number in few characters; whole ones without a fraction."""
    if math.isfinite(value) and float(value).is_integer() and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time [s] as hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


def _or(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1f}"
