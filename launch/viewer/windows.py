"""Rerun's viewers as processes: a window, or a server for browsers."""

import contextlib
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from ...robots.plugins import UnknownName

MODES = ("auto", "native", "web", "off")
PORT = 9876
"""Where rerun's viewers listen by default: one that is open already is used again."""
WEB_PORT = 9090
COMES_UP = 20.0
"""How long a viewer may take to come up [s]."""
_LOCAL = "127.0.0.1"


class ViewError(ValueError):
    """There is no way to view; the message is one line."""


@dataclass(frozen=True)
class Window:
    """A viewer.

    Attributes:
        url: where it takes recordings.
        address: for a browser, or None.
        process: None: it was open already.
    """

    url: str
    address: str | None = None
    process: subprocess.Popen | None = None

    def wait(self) -> None:
        """Waits until it is closed."""
        if self.process is not None:
            self.process.wait()

    def close(self) -> None:
        """Ends it, if it is ours."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
                return
            self.process.kill()


def check(mode: str) -> str:
    """The way to view that `mode` means here: `native`, `web` or `off`.

    Raises:
        UnknownName: an unknown one.
        ViewError: a window without a display.
    """
    if mode not in MODES:
        raise UnknownName("view", mode, MODES)
    if mode in ("web", "off"):
        return mode
    missing = missing_display()
    if missing is None:
        return "native"
    if mode == "auto":
        return "off"
    raise ViewError(f"--view native needs a display: {missing}; --view web shows the run in a browser")


def missing_display() -> str | None:
    """Why no window can be opened here, or None. Rerun itself would take ten seconds to find out."""
    wayland, display = os.environ.get("WAYLAND_DISPLAY"), os.environ.get("DISPLAY")
    if os.name != "posix" or os.uname().sysname == "Darwin":
        return None
    if wayland:
        path = Path(os.environ.get("XDG_RUNTIME_DIR", "/"), wayland)
        return None if path.is_socket() else f"WAYLAND_DISPLAY is {wayland!r}, but nothing is there"
    if not display:
        return "neither DISPLAY nor WAYLAND_DISPLAY is set"
    found = re.fullmatch(r"(?:unix|(?P<host>[^:]*)):(?P<number>\d+)(\.\d+)?", display)
    if found is None:
        return f"DISPLAY is {display!r}, which is no display"
    host, number = found["host"], int(found["number"])
    reached = (
        _listens((host, 6000 + number))
        if host
        else any(_listens(path) for path in (f"/tmp/.X11-unix/X{number}", f"\0/tmp/.X11-unix/X{number}"))
    )
    return None if reached else f"DISPLAY is {display!r}, but nothing is there"


def native(*files: Path) -> Window:
    """A window; one that is open already if there are no `files` to show in it."""
    url = f"rerun+http://{_LOCAL}:{PORT}/proxy"
    if not files and _listens((_LOCAL, PORT)):
        return Window(url)
    port = PORT if not _listens((_LOCAL, PORT)) else _free()
    options = ["--port", str(port), "--bind", _LOCAL, "--hide-welcome-screen", "--expect-data-soon"]
    return Window(url.replace(str(PORT), str(port)), None, _start([*options, *map(str, files)]))


def web(*files: Path) -> Window:
    """A server of rerun's viewer for browsers on this machine.

    Raises:
        ViewError: it does not come up.
    """
    port = _free()
    web_port = WEB_PORT if not _listens((_LOCAL, WEB_PORT)) else _free()
    url = f"rerun+http://{_LOCAL}:{port}/proxy"
    options = ["--serve-web", "--bind", _LOCAL, "--port", str(port), "--web-viewer-port", str(web_port)]
    process = _start([*options, *map(str, files)])
    address = f"http://{_LOCAL}:{web_port}?url={quote(url, safe='')}"
    deadline = time.monotonic() + COMES_UP
    while not (_listens((_LOCAL, port)) and _listens((_LOCAL, web_port))):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise ViewError("rerun's web viewer does not come up")
        time.sleep(0.05)
    return Window(url, address, process)


def _start(options: list[str]) -> subprocess.Popen:
    """Starts rerun's own program, which comes with its package."""
    package = find_spec("rerun_cli")
    if package is None or package.origin is None:
        raise ViewError("rerun's viewer is not installed: pip install rerun-sdk")
    program = Path(package.origin).parent / ("rerun.exe" if os.name == "nt" else "rerun")
    # A session of its own: Ctrl-C ends the run, not the window.
    return subprocess.Popen(
        [str(program), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _listens(address: tuple[str, int] | str) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(address) == 0


def _free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((_LOCAL, 0))
        return int(probe.getsockname()[1])
