"""numba's compiler as this package uses it: without Python's lock, and kept on disk for as long as nothing changes.

numba keeps compiled code by the file that a function stands in, and does not see what the functions that it calls
become. Here it is kept under a hash of all files with compiled functions, in the folder where other native code is.
"""

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

from .native import cache_folder

_lock = threading.Lock()
_config: Any = config
_njit: Any = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")
_called: Any = functools.partial(numba.njit, nogil=True, error_model="numpy", no_cpython_wrapper=True)


def compiled(*signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compiles a function, at once for a signature or when it is first called; kept on disk.

    Division by zero gives what it gives in NumPy.
    """

    def wrap(function: Callable[..., Any]) -> Any:
        with _lock:  # where code is kept is told when a function is wrapped
            before, _config.CACHE_DIR = _config.CACHE_DIR, str(_folder())
            try:
                return _njit(*signature)(function)
            finally:
                _config.CACHE_DIR = before

    return wrap


inline: Any = _called()
"""Compiles a function that is called from compiled functions alone: from Python, it would crash."""

inline_relaxed: Any = _called(fastmath={"reassoc", "contract"})
"""The same, with sums taken in the fastest order and products fused into them: digits are a machine's own."""


@functools.cache
def _folder() -> Path:
    """Where the code of these sources is kept."""
    told = hashlib.sha256()
    for room in ("controllers", "learners", "sim"):
        for file in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            source = file.read_bytes()
            if any(word in source for word in (b"import numba", b"from numba", b"jit import", b"@native")):
                told.update(file.name.encode() + b"\0" + source + b"\0")
    return cache_folder() / f"numba-{told.hexdigest()[:16]}"
