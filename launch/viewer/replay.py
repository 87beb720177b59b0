"""`trimtab view`: a recording in rerun's viewer."""

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path

from ..outputs import DRAWING
from . import windows
from .observer import partial


def find(place: str) -> Path:
    """The recording that `place` is, or that lies in the folder `place`; of an unfinished run, what there is.

    Raises:
        ViewError: there is none.
    """
    path = Path(place)
    if path.is_dir():
        wished = path / DRAWING
        candidates = [wished, partial(wished), *sorted(path.glob("*.rrd"))]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None and (path / "run.json").is_file():
            raise windows.ViewError(
                f"{place!r} is a training run, which holds no recording ({DRAWING}); to see what it has learned: "
                f"trimtab run {shlex.join([str(path / 'scenario.toml'), '--controller', str(path)])} --view"
            )
        if found is None:
            within = sorted(str(other.parent) for other in path.glob(f"*/{DRAWING}"))
            near = f"; the newest one within is {within[-1]!r}" if within else ""
            raise windows.ViewError(f"{place!r} holds no recording ({DRAWING}){near}")
        path = found
    elif not path.exists():
        raise windows.ViewError(f"there is no {place!r}; trimtab view takes a recording, F.rrd, or the folder of a run")
    _check(path)
    return path


def show(place: str, mode: str, say: Callable[[str], object]) -> None:
    """Shows the recording `place`, until the window is closed, or, for browsers, until Ctrl-C.

    Args:
        place: a .rrd file, or a run's folder.
        mode: `native`, `web`, or `auto`: a window if there is a display.
        say: tells the user what to know.

    Raises:
        ViewError, UnknownName: it can not be shown.
    """
    if mode == "off":
        raise windows.UnknownName("view", mode, windows.MODES[:-1])
    way = windows.check(mode)
    path = find(place)
    window = windows.native(path) if way == "native" else windows.web(path)
    say(f"{path}: {window.address} (until Ctrl-C)" if window.address else f"{path}")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            window.wait()
    finally:
        if window.address is not None:
            window.close()


def _check(path: Path) -> None:
    import rerun as rr

    try:
        readable = bool(rr.chunk.RrdReader(str(path)).recordings())
    except Exception:
        readable = False
    if not readable:
        raise windows.ViewError(f"{str(path)!r} is no recording that rerun can read")
