"""LLVM assembly to machine code, by llvmlite, kept on disk.

What is kept lies under a hash of the assembly, of LLVM's version and of the processor, in the folder that the
environment variable `TRIMTAB_CACHE` names, or else in the user's cache folder.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ENVIRONMENT = "TRIMTAB_CACHE"
NAME = "kernel"
OPTIMISATION = 1
"""LLVM's level. More takes twice the time to compile and gains nothing on straight-line code."""

Entry = Callable[[int, int, ctypes.c_void_p], None]
"""Native code: of two counts, and the address of a table."""

KIND = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
"""What entries are in C."""


class Machine:
    """The processor, as llvmlite sees it.

    Attributes:
        width: how many float64 its vectors hold.
    """

    def __init__(self, llvm: Any) -> None:
        self.llvm = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.triple = llvm.get_process_triple()
        self.cpu = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features()
        self.features = features.flatten()
        self.width = 8 if features.get("avx512f") else 4 if features.get("avx") else 2
        self.version = llvm.llvm_version_info

    def target(self) -> Any:
        """A fresh target machine."""
        target = self.llvm.Target.from_triple(self.triple)
        return target.create_target_machine(cpu=self.cpu, features=self.features, opt=OPTIMISATION, jit=True)

    def key(self, text: str) -> str:
        """A hash of all that the compiled code depends on."""
        told = "\n".join([self.triple, self.cpu, self.features, f"{self.version} {OPTIMISATION}", text])
        return hashlib.sha256(told.encode()).hexdigest()


@functools.cache
def machine() -> Machine | None:
    """The machine, or None without llvmlite."""
    try:
        import llvmlite.binding as llvm
    except ModuleNotFoundError as error:
        if error.name not in ("llvmlite", "llvmlite.binding"):
            raise
        return None
    return Machine(llvm)


_lock = threading.Lock()
_loaded: dict[str, Entry] = {}
"""Entries by key, for the life of the process."""


def load(text: str, library: Iterable[str]) -> Entry | None:
    """The machine code of the function `NAME` in LLVM assembly: from this process, from the disk, or compiled now.

    Args:
        text: the assembly of a module.
        library: names of the C library's functions that it calls.

    Returns:
        None without llvmlite, or where the C library lacks one of those.
    """
    here, addresses = machine(), _library_addresses(library)
    if here is None or addresses is None:
        return None
    key = here.key(text)
    with _lock:
        if key not in _loaded:
            for name, address in addresses.items():
                here.llvm.add_symbol(name, address)
            binary = read(key)
            if binary is None:
                binary = _compiled(here, text)
                write(key, binary)
            _loaded[key] = _linked(here, binary)
        return _loaded[key]


def recall(key: str, library: Iterable[str]) -> Entry | None:
    """The machine code that `load` has kept under `key`, see `Machine.key`; None where there is none any more.

    Args:
        key: of the assembly.
        library: names of the C library's functions that it calls.
    """
    here, addresses = machine(), _library_addresses(library)
    if here is None or addresses is None:
        return None
    with _lock:
        if key not in _loaded:
            binary = read(key)
            if binary is None:
                return None
            for name, address in addresses.items():
                here.llvm.add_symbol(name, address)
            _loaded[key] = _linked(here, binary)
        return _loaded[key]


def _library_addresses(names: Iterable[str]) -> dict[str, int] | None:
    """Where the C library's functions are; None if one of them is missing."""
    try:
        library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
        return {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0 for name in sorted(names)}
    except (OSError, AttributeError):
        return None


def _compiled(here: Machine, text: str) -> bytes:
    llvm = here.llvm
    module = llvm.parse_assembly(text)
    module.triple = here.triple
    target = here.target()
    tuning = llvm.create_pipeline_tuning_options(speed_level=OPTIMISATION)
    # The lanes are all the vectors that there are.
    tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(target, tuning)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def _linked(here: Machine, binary: bytes) -> Entry:
    """The entry of compiled code, which holds the engine that owns it."""
    llvm = here.llvm
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), here.target())
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    entry = KIND(engine.get_function_address(NAME))
    entry.engine = engine  # type: ignore[attr-defined]  # whoever holds an entry holds the code that it leads to
    return entry


# The cache on disk ---------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where compiled code is kept."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    import platformdirs

    return platformdirs.user_cache_path("trimtab") / "kernels"


def read(key: str) -> bytes | None:
    """What `write` has kept under `key`; None where there is nothing, or something that was not written whole."""
    try:
        content = (cache_folder() / key).read_bytes()
    except OSError:
        return None
    seal = _seal(key, b"")
    binary = content[len(seal) :]
    return binary if content == _seal(key, binary) + binary else None


def write(key: str, binary: bytes) -> None:
    """Keeps `binary` on disk; a folder that can not be written to means that nothing is kept."""
    with contextlib.suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        # Under a name of its own first: another process may be writing, or reading, the same.
        handle, name = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_seal(key, binary) + binary)
            os.replace(name, folder / key)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _seal(key: str, binary: bytes) -> bytes:
    """What stands before the compiled code in its file, and nothing else there could."""
    return hashlib.sha256(key.encode() + binary).digest()
