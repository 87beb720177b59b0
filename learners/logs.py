"""Metrics of training as they come: a table in `metrics.csv`, and TensorBoard's event file."""

import contextlib
import csv
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from ..controllers.files import replacing
from .interface import TrainingError
from .run_folder import RunFolder, Saved, writing

FIRST = ("piece", "steps", "wall_s")
"""Columns that every table begins with: number of the piece, control steps and time [s] since training began."""


def read(path: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of a table of metrics, but for one that was cut short; none where there is no table.

    Raises:
        ValueError: it is no such table.
    """
    try:
        text = Path(path).read_text("utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can not read {str(path)!r}: {error}") from error
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if not lines:
        return []
    columns, *rows = lines
    if tuple(columns[: len(FIRST)]) != FIRST:
        raise ValueError(f"{str(path)!r} is no table of metrics: it does not begin with {', '.join(FIRST)}")
    try:
        return [dict(zip(columns, map(float, row), strict=True)) for row in rows]
    except ValueError:
        raise ValueError(f"{str(path)!r} is no table of metrics: not every row has {len(columns)} numbers") from None


class Logs:
    """Where metrics go while a run trains; what was written after its checkpoint is taken back first.

    Args:
        folder: of the run.
        saved: how far the checkpoint is, from which training goes on.

    Raises:
        TrainingError: something could not be written.
        ValueError: `metrics.csv` is no table of metrics.
    """

    def __init__(self, folder: RunFolder, saved: Saved) -> None:
        self._path = folder.metrics
        rows = read(self._path)
        kept = [row for row in rows if row["piece"] <= saved.pieces]
        self._columns = list(kept[-1]) if kept else []
        with contextlib.ExitStack() as closing, writing(self._path):
            with replacing(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                if kept:
                    table.writerow(self._columns)
                table.writerows([_short(value) for value in row.values()] for row in kept)
            self._file = closing.enter_context(self._path.open("a", newline="", encoding="utf-8"))
            self._events = _Events(folder.path, saved.steps if saved.pieces else None)
            closing.pop_all()

    def append(self, piece: int, steps: int, wall_s: float, metrics: Mapping[str, float]) -> dict[str, float]:
        """Writes a row; it is returned.

        Raises:
            TrainingError: the metrics are not those of the rows before, or it could not be written.
        """
        row = {"piece": float(piece), "steps": float(steps), "wall_s": wall_s}
        row |= {name: float(value) for name, value in metrics.items()}
        table = csv.writer(self._file)
        with writing(self._path):
            if not self._columns:
                self._columns = list(row)
                table.writerow(self._columns)
            if set(row) != set(self._columns):
                other = ", ".join(sorted(set(row) ^ set(self._columns)))
                raise TrainingError(f"piece {piece} has other metrics than those before: {other}")
            table.writerow([_short(row[name]) for name in self._columns])
            self._file.flush()
            self._events.add(steps, {name: row[name] for name in metrics})
        return row

    def close(self) -> None:
        """Ends both files."""
        # What could not be written was said when it was tried.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()


def _short(value: float) -> float | int:
    """Whole numbers without a fraction; a float's text says all of its bits."""
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


class _Events:
    """TensorBoard's event file, written at once: torch's writer leaves it to a thread, whose errors come late.

    Args:
        folder: where it is to lie.
        after: control steps from which training goes on; TensorBoard then forgets what came later. None: from the
            beginning.
    """

    def __init__(self, folder: Path, after: int | None) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        # TensorBoard reads a run's files in the order of their names.
        path = folder / f"events.out.tfevents.{time.time_ns():019d}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(path.open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(step=0 if after is None else after + 1, session_log=SessionLog(status=SessionLog.START))
        self._writer.flush()

    def add(self, steps: int, metrics: Mapping[str, float]) -> None:
        """Writes `metrics` by name, at so many control steps."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._write(step=steps, summary=Summary(value=values))
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, **content: object) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
