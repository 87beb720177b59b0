"""Files are written whole: to a temporary name, then renamed."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, of the same suffix, that takes its place when the block ends without an error.

    What was written is on the disk before the name changes, so that a crash leaves the old file or the new one.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        file_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_to_disk(path: Path) -> None:
    """Has the operating system write what is in the file to the disk, and waits for it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def names_to_disk(folder: Path) -> None:
    """The same for the names in `folder`, which systems other than POSIX do by themselves."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def tree_to_disk(folder: Path) -> None:
    """The same for all that is in `folder`, at any depth: before it gets the name by which it counts as whole."""
    for path in sorted(folder.rglob("*"), reverse=True):  # a folder after what is in it
        if path.is_file():
            file_to_disk(path)
        else:
            names_to_disk(path)
    names_to_disk(folder)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
