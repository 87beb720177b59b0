"""The process that draws: it owns rerun, whose calls can block for good, and is killed when they do.

It is started by `remote.Remote` as `python -m trimtab.launch.viewer.process SETTINGS`, with one end of a socket as its
standard input. Pickled messages come in; out go single bytes: `DONE` for each message dealt with, `BUSY` while it
starts or ends, `CLOSED` when all is written; or `FAILED`, and then the reason.
"""

import contextlib
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlparse

DONE, BUSY, CLOSED, FAILED = b".", b"b", b"c", b"!"
FLUSH = 60.0
"""Longest wait for what was logged to be written or sent [s]."""
DELIVERY = 1e6
"""Longest wait for a viewer to take what was logged [s]: whoever has had enough of it ends this process."""


def main(settings: dict[str, Any]) -> None:
    """Draws what comes in until it ends, to the file or the address that the settings name."""
    # Ctrl-C is for the run: what it records up to then is still to be written.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(5)  # the loop and its planner come first
    with socket.socket(fileno=os.dup(0)) as channel:
        try:
            draw(channel, settings)
            said = CLOSED
        except Exception as error:
            said = FAILED + f"{type(error).__name__}: {error}".encode()
        with contextlib.suppress(OSError):  # nobody may listen any more
            channel.sendall(said)


def draw(channel: socket.socket, settings: dict[str, Any]) -> None:
    """Logs the messages of `channel` until its end.

    Raises:
        ConnectionError: there is no viewer at the address.
        OSError: the file could not be written.
    """
    url: str | None = settings.get("url")
    path: str = settings.get("path", "")
    with _busy(channel):
        if url is not None:
            _await(url, settings["wait"])
        import rerun as rr

        from .picture import Picture

    # Rerun keeps one layout and camera for all recordings of an application, that of the first one it opens.
    # A recording has an identity of its own: a second run would otherwise be drawn into the first one's picture.
    stream = rr.RecordingStream(f"trimtab {settings['name']}")
    if url is not None:
        stream.connect_grpc(url)
    else:
        stream.save(path)
    picture = Picture(stream, live=url is not None)
    logged = time.monotonic()
    with channel.makefile("rb") as messages:
        while (message := _next(messages)) is not None:
            picture.show(message)
            if url is not None:
                # Without this, rerun would gather all that a frozen viewer does not take, and say nothing.
                stream.flush(timeout_sec=DELIVERY)
            elif time.monotonic() > logged + 1.0:
                # So that a crash loses no more than the last second.
                picture.flush()
                stream.flush(timeout_sec=FLUSH)
                logged = time.monotonic()
            # Where nobody listens any more, what there is to read is still to be drawn.
            with contextlib.suppress(ConnectionError):
                channel.sendall(DONE)
    if url is not None:
        # Nobody may take this: it is not said to be progress.
        stream.flush(timeout_sec=DELIVERY)
        stream.disconnect()
        return
    with _busy(channel):
        picture.flush()
        stream.flush(timeout_sec=FLUSH)
        stream.disconnect()
        check(path)


@contextlib.contextmanager
def _busy(channel: socket.socket) -> Iterator[None]:
    """Says `BUSY` now and then: what takes long here, by rerun or by the disk, is progress all the same."""
    over = threading.Event()

    def say() -> None:
        with contextlib.suppress(OSError):
            channel.sendall(BUSY)
            while not over.wait(0.5):
                channel.sendall(BUSY)

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    try:
        yield
    finally:
        over.set()
        saying.join()


def _next(messages: Any) -> Any:
    """The next message; None at the end, which may lie in the middle of one: whoever sent it may have died."""
    try:
        return pickle.load(messages)
    except (EOFError, pickle.UnpicklingError, ConnectionError):
        return None


def check(path: str) -> None:
    """Reads the recording at `path` back: rerun itself says nothing when a disk is full.

    Raises:
        OSError: it is not whole.
    """
    import rerun as rr

    try:
        chunks = sum(1 for _ in rr.chunk.RrdReader(path).stream())
    except Exception as error:
        raise OSError(f"what was written can not be read back ({error}); is the disk full?") from error
    if not chunks:
        raise OSError("nothing was written; is the disk full?")


def _await(url: str, seconds: float) -> None:
    """Waits for somebody to listen at `url`: rerun itself would fail for good, or block."""
    place = urlparse(url)
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((place.hostname, place.port or 9876), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(f"no viewer listens at {url}: {error.strerror or error}") from error
            time.sleep(0.1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
