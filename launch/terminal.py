"""What a command says: where to, and its exit code."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

DONE, FAILED, WRONG = 0, 1, 2
"""Exit codes: done; what was asked for failed; what was asked for is wrong."""


def say(message: str, code: int) -> int:
    """Prints `message` as one line on stderr; returns `code`."""
    print("trimtab: " + " ".join(message.split()), file=sys.stderr)
    return code


_usual_warning = warnings.formatwarning


def warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of ours as one line, for whoever typed a command; libraries' as they are."""
    from ..robots.plugins import Notice

    if not issubclass(category, Notice):
        return _usual_warning(message, category, filename, lineno, line)
    return "trimtab: " + " ".join(str(message).split()) + "\n"


def console(file: Any) -> Any:
    """A `rich` console on `file`."""
    from rich.console import Console

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # Where nobody watches, a line is never wrapped: scripts read it.
    return _Console(file=file, highlight=False, width=None if file.isatty() else 160)


@contextlib.contextmanager
def output(json: str | None) -> Iterator[Any]:
    """Where a command's output for people goes: stdout, or stderr where `--json -` keeps stdout for the result.

    Then whatever else is printed meanwhile, by libraries in C too, goes to stderr as well.
    """
    if json != "-":
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield sys.stderr
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def getting_ready(console: Any, name: str) -> Iterator[None]:
    """Says that `name` is getting ready, while libraries keep to themselves what they find to warn of."""
    from ..robots.suite import ignore_warnings

    ignore_warnings()
    logging.disable(logging.WARNING)
    try:
        with console.status(f"{name}: getting ready (native code is compiled once, and kept)"):
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Has SIGTERM, by which schedulers end programs, do what Ctrl-C does."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
