"""The folder of a training run: all that it takes to continue, evaluate, use and understand it.

    scenario.toml           the exact configuration
    run.json                what was trained, with which versions
    metrics.csv             one row for each piece of training
    events.out.tfevents.*   the same for TensorBoard
    curve.png               the learning curve
    episode.npz             the last episode of training
    evaluation.json         what was found when it was last evaluated
    checkpoints/last        where training continues
    checkpoints/previous    the one before
    checkpoints/last.refused    a `last` that could not be used when training went on
    checkpoints/best        that of the piece with the best return

A checkpoint is written under the name `NAME.partial`, brought to the disk, then renamed, so that at any moment one of
`last` and `previous` is whole.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from .. import __version__
from ..controllers.episode import Episode
from ..controllers.files import names_to_disk, replacing, tree_to_disk
from .interface import Learner, TrainingError

Taken = TypeVar("Taken")

FORMAT = 1

_PACKAGES = ("llvmlite", "mujoco", "numba", "numpy", "scipy", "torch")
_TURNS = {"last": "previous", "best": "best.old"}
"""Where a checkpoint goes when a newer one takes its name."""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclass(frozen=True)
class About:
    """What a run trains: the content of `run.json`.

    Attributes:
        scenario, task, learner: their names.
        seed: all randomness follows from it.
        period: of decisions [s].
        steps: control steps of the plant asked for.
        trimtab: the version that trains.
        versions: of what else the numbers depend on, by package.
    """

    scenario: str
    task: str
    learner: str
    seed: int
    period: float
    steps: int
    trimtab: str = __version__
    versions: Mapping[str, str] = field(default_factory=_versions)


@dataclass(frozen=True)
class Saved:
    """How far training was when a checkpoint was made.

    Attributes:
        pieces: of training, so far.
        steps: control steps of the plant.
        wall_s: time spent on them [s].
        best: the best `return` of a piece, None before there is one.
    """

    pieces: int = 0
    steps: int = 0
    wall_s: float = 0.0
    best: float | None = None


class RunFolder:
    """The folder of a training run that there is.

    Attributes:
        path: of the folder.
        about: what it trains.

    Raises:
        ValueError: it is no training run, one of another format, or `run.json` was cut short.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(f"no folder {str(path)!r}")
        if not (self.path / "run.json").exists():
            raise ValueError(f"folder {str(path)!r} holds no training run: run.json is missing")
        self.about = _read(About, self.path / "run.json")

    @classmethod
    def create(cls, path: str | os.PathLike, about: About, configuration: str) -> "RunFolder":
        """The folder of a new run; one that is there must be empty.

        Args:
            path: of the folder.
            about: what it will train.
            configuration: a scenario file that says all settings.

        Raises:
            ValueError: there is something in the folder.
            TrainingError: it could not be written.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{str(path)!r} holds something already")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            _write(path / "scenario.toml", configuration)
            _write(path / "run.json", _json(about))
        return cls(path)

    @classmethod
    def at(cls, path: str | os.PathLike) -> tuple["RunFolder", str]:
        """The run whose folder, or checkpoint, lies there, and the checkpoint's name: empty for a run's folder.

        Raises:
            ValueError: as for a run's folder.
        """
        there = Path(path).resolve()
        run = there.parents[1] if len(there.parents) > 1 else there
        if there.parent.name == "checkpoints" and there.is_dir() and (run / "run.json").is_file():
            return cls(run), there.name
        return cls(path), ""

    @property
    def configuration(self) -> Path:
        """The scenario file that says all settings."""
        return self.path / "scenario.toml"

    @property
    def metrics(self) -> Path:
        """The table of metrics."""
        return self.path / "metrics.csv"

    def checkpoint(self, name: str = "last") -> Path:
        """Where a checkpoint lies, if there is one: `last`, `previous`, `best`, or another folder's name among them."""
        return self.path / "checkpoints" / name

    def ask(self, steps: int) -> None:
        """Notes that so many control steps are now asked for.

        Raises:
            TrainingError: it could not be written.
        """
        about = replace(self.about, steps=steps)
        if about != self.about:
            with writing(self.path / "run.json"):
                _write(self.path / "run.json", _json(about))
            self.about = about

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes from training in this folder meanwhile, where the file system can.

        Raises:
            ValueError: another one does.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another process is training in {str(self.path)!r}") from None
            except OSError:
                pass  # a file system without locks
            yield
        finally:
            os.close(handle)

    def save(self, learner: Learner, saved: Saved, *, best: bool = False, episode: Episode | None = None) -> None:
        """Makes the checkpoint `last`, and `best` of it too.

        Args:
            learner: to be saved.
            saved: how far it is.
            best: whether it is the best so far.
            episode: the last one of training.

        Raises:
            TrainingError: something could not be written; the checkpoints that there were are still there.
        """
        partial = self.checkpoint("last.partial")
        try:
            with writing(partial):
                _empty(partial)
                learner.save(partial)
                _write(partial / "progress.json", _json(saved))
                tree_to_disk(partial)
                if best:
                    twin = self.checkpoint("best.partial")
                    shutil.rmtree(twin, ignore_errors=True)
                    shutil.copytree(partial, twin, copy_function=_link)
                    self._renew("best")
                    shutil.rmtree(self.checkpoint(_TURNS["best"]), ignore_errors=True)
                self._renew("last")
                if episode is not None:
                    episode.save(self.path / "episode.npz")
        finally:
            # What a full disk cut short takes room for nothing.
            for name in _TURNS:
                shutil.rmtree(self.checkpoint(f"{name}.partial"), ignore_errors=True)

    def saved(self, name: str = "last") -> Saved:
        """How far the checkpoint `name` is.

        Raises:
            ValueError: there is none, or it was cut short.
        """
        return _read(Saved, self.checkpoint(name) / "progress.json")

    def restore(self, learner: Learner, name: str = "last", whole: bool = True) -> tuple[Saved, str]:
        """Puts `learner` where the checkpoint `name` is, or where the one before it is if that one can not be used.

        Args:
            learner: made with the same settings as the one saved.
            name: `last` or `best`; of any other one there is none before it.
            whole: whether training is to go on from there; else only the learner's controller is wanted.

        Returns:
            How far it is, and what a person should be told: empty if all is well.

        Raises:
            ValueError: neither can be used. If there are none, because training was interrupted before the first, it
                is not an error where training goes on from `last`: then nothing is restored.
        """
        before = [_TURNS[name]] if name in _TURNS else []
        tried = [kept for kept in (name, *before) if self.checkpoint(kept).exists()]
        if not tried:
            if name == "last":
                return Saved(), ""
            raise ValueError(f"{str(self.path)!r} has no checkpoint {name!r} yet")

        def take(checkpoint: Path) -> Saved:
            saved = self.saved(checkpoint.name)
            (learner.restore if whole else learner.restore_controller)(checkpoint)
            return saved

        saved, note = first_usable([self.checkpoint(kept) for kept in tried], take)
        return saved, note and f"{note}, of {saved.steps} steps"

    def resume(self, learner: Learner) -> tuple[Saved, str]:
        """Puts `learner` where training goes on, see `restore`, and a `last` that can not be used aside.

        The next checkpoint would otherwise take the place of `previous`, the only one that can be.

        Raises:
            ValueError: as `restore`; nothing has changed then.
            TrainingError: the folder can not be written.
        """
        saved, note = self.restore(learner)
        if note:
            refused = self.checkpoint("last.refused")
            with writing(refused):
                if refused.exists():
                    shutil.rmtree(refused)
                self.checkpoint("last").replace(refused)
                names_to_disk(refused.parent)
            note += f"; the other is kept as {refused.name!r}"
        return saved, note

    def _renew(self, name: str) -> None:
        """Gives `NAME.partial` its name; the one that has it makes room."""
        place, aside = self.checkpoint(name), self.checkpoint(_TURNS[name])
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)
            place.replace(aside)
        self.checkpoint(f"{name}.partial").replace(place)
        names_to_disk(place.parent)


def first_usable(checkpoints: Sequence[Path], take: Callable[[Path], Taken]) -> tuple[Taken, str]:
    """What `take` makes of the first of a run's checkpoints that it can use.

    Args:
        checkpoints: at least one, from the newest on.
        take: raises a ValueError or an OSError where a checkpoint can not be used.

    Returns:
        What it makes, and what a person should be told: why those before were not used; empty if there are none.

    Raises:
        ValueError: none can be used, and why.
    """
    reasons = []
    for checkpoint in checkpoints:
        try:
            taken = take(checkpoint)
        except (ValueError, OSError) as error:
            run = str(checkpoint.parent.parent)
            reasons.append(f"checkpoint {checkpoint.name!r} of {run!r} can not be used: {error}")
            continue
        if reasons:
            reasons.append("the one before it is used")
        return taken, "; ".join(reasons)
    raise ValueError("; ".join(reasons))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the operating system as `TrainingError`s that name the file, `path` if nothing better is known."""
    try:
        yield
    except OSError as error:
        where = error.filename or str(path)
        raise TrainingError(f"can not write {str(where)!r}: {error.strerror or error}") from error


def _read(kind: Any, path: Path) -> Any:
    """The dataclass `kind` that was written to `path` as JSON.

    Raises:
        ValueError: it can not be read, was cut short, or is of another format.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"can not read {str(path)!r}: {error.strerror}") from error
    except ValueError:
        raise ValueError(f"{str(path)!r} is no JSON, or not the whole of it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} is none of trimtab's")
    if (found := content.get("format")) != FORMAT:
        raise ValueError(f"{str(path)!r} is of format {found!r}; this version of trimtab reads format {FORMAT}")
    names = [f.name for f in fields(kind)]
    if missing := [name for name in names if name not in content]:
        raise ValueError(f"{str(path)!r} does not say: {', '.join(missing)}")
    return kind(**{name: content[name] for name in names})


def _json(content: About | Saved) -> str:
    return json.dumps({"format": FORMAT, **asdict(content)}, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _link(source: str, target: str) -> None:
    """A second name for a file that nobody changes, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
