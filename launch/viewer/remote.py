"""The end of the line in the run's process: messages go out to a process that draws, however it fares."""

import contextlib
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any

from . import process
from .messages import Message

AHEAD = 4
"""Messages under way at most: what is further behind waits where it can still be dropped."""
STALL = 3.0
"""Once the run is over: time without progress after which the process is given up [s]."""
START = 15.0
"""The same until the process has said its first word: on a busy machine Python itself takes a while to start [s]."""


class Stalled(RuntimeError):
    """The process that draws makes no progress."""


class Remote:
    """A process that draws.

    `send` and `close` block while it does, in the thread that calls them; after `hurry`, for `STALL` seconds at most.

    Args:
        settings: of the process: `name` of the recording, and `path` of a file, or `url` of a viewer and for how long
            to `wait` for it [s].
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", process.__name__, json.dumps(settings)]
        # rerun reports faults by its own log, in many lines; what matters of them, we find out ourselves.
        environment = {"RUST_LOG": "off", **os.environ}
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours
        self._hurried = threading.Event()
        self._progress = time.monotonic()
        self._patience = START
        self._under_way: deque[int] = deque()
        self._closed = False
        self.confirmed = 0

    def send(self, message: Message, worth: int = 0) -> None:
        """Sends `message`, when there is room for it; `confirmed` grows by `worth` when it is drawn.

        Raises:
            Stalled: after `hurry`, no progress was made.
            OSError: the process is gone, or told why it can not go on.
        """
        while len(self._under_way) >= AHEAD:
            self._listen()
        self._under_way.append(worth)
        self._write(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL))

    def close(self) -> None:
        """Ends the messages and waits until all is drawn.

        Raises:
            Stalled, OSError: as `send` does.
        """
        self._socket.shutdown(socket.SHUT_WR)
        while not self._closed:
            self._listen()
        # All is written or sent: a process that is slow to go, or hangs in rerun's own exit, loses nothing.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STALL)
        self.kill()

    def hear(self) -> None:
        """Takes what the process has said, if anything.

        Raises:
            OSError: it has ended, or failed.
        """
        try:
            said = self._socket.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise self._gone(error) from error
        if not said:
            raise self._gone()
        self._progress = time.monotonic()
        self._patience = STALL
        for at, letter in enumerate(said):
            if letter == process.FAILED[0]:
                raise OSError(self._rest(said[at + 1 :]))
            if letter == process.CLOSED[0]:
                self._closed = True
            elif letter == process.DONE[0]:
                self.confirmed += self._under_way.popleft()

    def hurry(self) -> None:
        """The run is over: from now on nothing waits for a process that makes no progress. For any thread."""
        self._hurried.set()

    def kill(self) -> None:
        """Ends the process, whatever it does, and with it whatever waits for it. For any thread."""
        with contextlib.suppress(OSError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._socket.send(left) :]
                self._progress = time.monotonic()
            except BlockingIOError:
                self._listen(writing=True)
            except OSError as error:
                self.hear()  # why, if it said so before it went
                raise self._gone(error) from error
        self.hear()

    def _listen(self, writing: bool = False) -> None:
        """Waits a little until the process says something, or until it can be written to.

        Raises:
            Stalled: for nothing, and the run is over.
        """
        ready, _, _ = select.select([self._socket], [self._socket] if writing else [], [], 0.1)
        if ready:
            self.hear()
        elif self._hurried.is_set() and time.monotonic() > self._progress + self._patience:
            raise Stalled(f"it has made no progress for {self._patience:g} s")

    def _rest(self, said: bytes) -> str:
        """All of what a process says that ends with `said`, or goes on for a moment."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(1.0)
            while more := self._socket.recv(4096):
                said += more
        return said.decode(errors="replace")

    def _gone(self, error: Exception | None = None) -> OSError:
        code = self._process.poll()
        ended = "" if code is None else f" (exit code {code})"
        return OSError(f"the process that draws has ended{ended}{f': {error}' if error else ''}")
