"""Where a run's results go: found writable before the run starts, written whole or not at all.

A run has a folder `runs/<date-time>-<scenario>/` with `episode.npz`, `run.rrd` (for rerun), `scenario.toml` (the exact
configuration), and `result.json`; `--record` names another folder or a single file instead.
"""

import contextlib
import datetime
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..controllers.episode import Episode
from ..controllers.files import replacing
from .settings import ScenarioError

SUFFIXES = (".rrd", ".npz")
DRAWING = "run.rrd"
"""The recording for rerun in a run's folder."""
PROBE = 1 << 20
"""Bytes that must be writable before a run starts."""


class OutputError(OSError):
    """A result can not be written; the message is one line that names the file."""


@dataclass(frozen=True)
class Outputs:
    """Where a run's results go.

    Attributes:
        folder: for `episode.npz`, `run.rrd`, `scenario.toml`, `result.json`, or None.
        record: a single .rrd or .npz file instead, or None.
        video: an .mp4 file, or None.
        result: a file for the result as JSON, or None.
        own: whether the folder is this run's alone: made for it, and removed if nothing comes to lie in it.
    """

    folder: Path | None = None
    record: Path | None = None
    video: Path | None = None
    result: Path | None = None
    own: bool = False

    @classmethod
    def named(cls, scenario: str, record: str | None, video: str | None, result: str | None) -> "Outputs":
        """The outputs that the options `--record`, `--video` and `--json` name; nothing is touched yet.

        Raises:
            ScenarioError: a file of a kind that we do not write.
        """
        if record == "":
            raise ScenarioError("--record takes off, a folder, or a file ending in .rrd or .npz, not ''")
        if video is not None and Path(video).suffix != ".mp4":
            raise ScenarioError(f"--video takes a file ending in .mp4, not {video!r}")
        folder = file = None
        if record is None:
            folder = own_folder(scenario)
        elif record != "off":
            path = Path(record)
            if path.suffix and not path.is_dir():
                if path.suffix not in SUFFIXES:
                    raise ScenarioError(
                        f"--record takes off, a folder, or a file ending in .rrd or .npz, not {record!r}"
                    )
                file = path
            else:
                folder = path
        return cls(
            folder,
            file,
            None if video is None else Path(video),
            None if result in (None, "-") else Path(str(result)),
            own=record is None,
        )

    @property
    def recording(self) -> str | None:
        """Where the recording lies, or None."""
        place = self.record or self.folder
        return None if place is None else str(place)

    @property
    def drawing(self) -> Path | None:
        """The recording for rerun, or None."""
        if self.folder is not None:
            return self.folder / DRAWING
        return self.record if self.record is not None and self.record.suffix == ".rrd" else None

    def prepare(self) -> "Outputs":
        """Makes the folders and writes to each, so that a run does not end in vain; the outputs as they are then.

        The run's own folder gets another name where the one wished for is taken, by a run begun in the same second.

        Raises:
            ScenarioError: one can not be written, or is no ordinary file or folder.
        """
        for file in (self.record, self.video, self.result):
            if file is not None:
                probe_file(file)
        if self.folder is None:
            return self
        probe(self.folder.parent if self.own else self.folder)
        return replace(self, folder=claimed(self.folder)) if self.own else self

    def discard(self) -> None:
        """Removes the run's own folder, and the one it lies in, if nothing lies in them."""
        if self.folder is not None and self.own:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                self.folder.parent.rmdir()

    def save(self, episode: Episode, configuration: str, result: Mapping[str, Any]) -> None:
        """Writes the run's folder, or the episode to the .npz file, and the result's file.

        Raises:
            OutputError: something could not be written.
        """
        with saving():
            text = json.dumps(result, indent=2) + "\n"
            if self.folder is not None:
                write_text(self.folder / "scenario.toml", configuration)
                episode.save(self.folder / "episode.npz")
                if episode.notes:
                    write_text(self.folder / "notes.txt", "\n".join(episode.notes) + "\n")
                write_text(self.folder / "result.json", text)
            elif self.record is not None and self.record.suffix == ".npz":
                episode.save(self.record)
            if self.result is not None:
                write_text(self.result, text)


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all; a device or a pipe is written to directly.

    Raises:
        OSError: it could not be written; its `filename` is `path`.
    """
    try:
        if _is_stream(path):
            path.write_text(text, "utf-8")
        else:
            with replacing(path) as temporary:
                temporary.write_text(text, "utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Errors of the operating system as `OutputError`s that name the file."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename!r}" if error.filename else ""
        raise OutputError(f"can not write{where}: {error.strerror or error}") from error


def own_folder(*names: str) -> Path:
    """The folder for a run's own results, by the time and by `names`."""
    # A colon, as in dm_control:dog-run, is not allowed in a file's name everywhere.
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / "-".join([stamp, *map(_plain_name, names)])


def probe_file(file: Path) -> None:
    """Finds out whether `file` can be written.

    Raises:
        ScenarioError: it can not.
    """
    if _is_stream(file):
        return
    if file.is_dir():
        raise ScenarioError(f"can not write {str(file)!r}: it is a folder")
    probe(file.parent)


def probe(folder: Path) -> None:
    """Makes `folder`, if need be, and writes to it.

    Raises:
        ScenarioError: that can not be done.
    """
    with _refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())


def claimed(folder: Path) -> Path:
    """Makes `folder`, or one with a number added, that no other run has made.

    Raises:
        ScenarioError: it can not be made.
    """
    candidate, k = folder, 2
    with _refusing(folder.parent):
        while True:
            try:
                candidate.mkdir(parents=True)
                return candidate
            except FileExistsError:
                candidate, k = folder.with_name(f"{folder.name}-{k}"), k + 1


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ScenarioError(f"can not write in folder {str(folder)!r}: {error.strerror or error}") from error


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _plain_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
