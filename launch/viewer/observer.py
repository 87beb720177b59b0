"""Observers that draw: a recorder, a live view, and one for notebooks.

The first two compute what is drawn; a process of their own draws it, so that rerun never runs where the loop does.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...controllers.episode import Episode
from ...controllers.interface import Timing
from ...controllers.plan import Plan
from ...robots.task import Task
from ...sim.interface import Scene, State
from ..outputs import OutputError
from .digest import Digest, Frame
from .messages import Message, Steps
from .remote import Remote, Stalled

PATIENCE = 120.0
"""The longest that a run waits for its picture to be complete [s]: as long as that makes progress."""


GATHERED = 64
"""At most so many steps are sent at once."""


class _Line(Protocol):
    """Where messages go, see `Remote`."""

    confirmed: int

    def send(self, message: Message, worth: int = 0) -> None: ...

    def hear(self) -> None: ...

    def close(self) -> None: ...

    def hurry(self) -> None: ...

    def kill(self) -> None: ...


class _Drawing:
    """An observer that draws.

    Steps that it is too late for while the run goes on are drawn when it is over, if they still can be.

    Attributes:
        shown: steps that are drawn.
        trouble: why not all of them are, or None.
    """

    patience = PATIENCE
    period = 0.0
    """Time between two looks at the run [s]."""

    def __init__(self, connect: Callable[[], _Line]) -> None:
        self.trouble: str | None = None
        self._connect = connect
        self._line: _Line | None = None
        self._digest: Digest | None = None
        self._gathered: list[Frame] = []
        self._plan: Plan | None = None

    @property
    def shown(self) -> int:
        """Steps that are drawn."""
        return 0 if self._line is None else self._line.confirmed

    def start(self, scene: Scene | None, task: Task) -> None:
        """Begins the picture with the scene."""
        with self._noting():
            self._digest = Digest(scene, task)
            self._line = self._connect()
            self._send(self._digest.geometry())

    def step(self, state: State, u: np.ndarray, plan: Plan | None, timing: Timing) -> None:
        """Gathers the step; sends what is gathered if it is time."""
        assert self._digest is not None
        self._gathered.append(Frame(state, u, timing))
        with self._noting():
            if plan is not None and plan is not self._plan:
                self._plan = plan
                self._send(self._digest.plan(plan, state, timing))
            if len(self._gathered) >= GATHERED:
                self._send_gathered()

    def idle(self) -> None:
        """Sends the steps gathered, and hears what has been drawn."""
        assert self._line is not None
        with self._noting():
            self._send_gathered()
            self._line.hear()

    def end(self, episode: Episode) -> None:
        """Sends what is missing, and waits until all is drawn."""
        assert self._digest is not None
        assert self._line is not None
        with self._noting():
            self._send_gathered()
            self._send(self._digest.rest(episode))
            self._line.close()

    def closing(self) -> None:
        """The run is over, from the loop's thread: what makes no progress is not waited for."""
        if self._line is not None:
            self._line.hurry()

    def close(self) -> None:
        """Ends the process; what it has drawn stays."""
        if self._line is not None:
            self._line.kill()

    def _send_gathered(self) -> None:
        assert self._digest is not None
        gathered, self._gathered = self._gathered, []
        self._send(self._digest.steps(gathered))

    def _send(self, messages: Iterable[Message]) -> None:
        assert self._line is not None
        for message in messages:
            # The scores of a step are sent once, whatever else of it is; the start has none.
            worth = len(message.time) if isinstance(message, Steps) and "reward" in message.curves else 0
            self._line.send(message, worth)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, Stalled) as error:
            self.trouble = str(error)
            raise
        except Exception as error:  # whatever it is: the run goes on, and says at its end what is missing
            self.trouble = f"{type(error).__name__}: {error}"
            raise


class Recorder(_Drawing):
    """Writes a rerun recording, from a process of its own.

    While the run lasts it is written to `partial(path)`, which can be read up to a second ago, and stays if the run is
    killed; at the end it takes its name.

    Args:
        path: of the .rrd file.
        name: of the recording in rerun.
    """

    period = 0.25

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(lambda: Remote({"path": str(partial(path)), "name": name}))
        self._complete = False
        self._path = path

    def check(self) -> None:
        """Once the run is over.

        Raises:
            OutputError: the recording is not complete.
        """
        if not self._complete:
            rest = partial(self._path)
            kept = f" (kept so far: {str(rest)!r})" if rest.exists() else ""
            raise OutputError(f"can not write {str(self._path)!r}: {self.trouble or 'it took too long'}{kept}")

    def end(self, episode: Episode) -> None:
        """Completes the recording."""
        super().end(episode)
        partial(self._path).replace(self._path)
        self._complete = True


class LiveView(_Drawing):
    """Shows the run in a rerun viewer, from a process of its own.

    Args:
        url: where the viewer listens, as `rerun+http://127.0.0.1:9876/proxy`.
        name: of the recording in rerun.
        wait: for the viewer to come up [s].
    """

    period = 0.04

    def __init__(self, url: str, name: str, wait: float = 2.0) -> None:
        super().__init__(lambda: Remote({"url": url, "name": name, "wait": wait}))


class StreamView(_Drawing):
    """Draws into a rerun stream of one's own, in this process: for notebooks, and for rerun's other sinks.

    Args:
        stream: stays open. A rerun call that blocks, blocks this observer's thread, but not the loop.
        live: whether somebody watches while the run goes on.
    """

    period = 0.1

    def __init__(self, stream: Any, live: bool = False) -> None:
        super().__init__(lambda: _Local(stream, live))


class _Local:
    """A picture in this process."""

    def __init__(self, stream: Any, live: bool) -> None:
        from .picture import Picture

        self._picture = Picture(stream, live)
        self.confirmed = 0

    def send(self, message: Message, worth: int = 0) -> None:
        self._picture.show(message)
        self.confirmed += worth

    def hear(self) -> None:
        pass

    def close(self) -> None:
        self._picture.flush()

    def hurry(self) -> None:
        pass

    def kill(self) -> None:
        pass


def partial(path: Path) -> Path:
    """Where a recording for `path` lies until it is complete."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")
