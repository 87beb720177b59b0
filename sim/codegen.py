"""CasADi functions compiled to native code, SIMD-batched: one call evaluates a function for many points, a lane each.

A function's instructions are written as LLVM assembly on vectors (`lanes.py`) and compiled by llvmlite, which needs no
C compiler, and keeps what it compiled on disk (`native.py`). Without llvmlite, CasADi's own interpreter evaluates the
function: the same numbers, slower.
"""

import ctypes
import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .lanes import LIBRARY, Assembly, Value
from .native import KIND, NAME, Entry, load, machine, read, recall, write


class Kernel:
    """A function of arrays with any leading batch dimensions; made by `compile`.

    A column of n entries is an array (..., n), a matrix (..., r, c); structural zeros are entries like all others.
    Batch dimensions are broadcast against each other.

    Attributes:
        inputs, outputs: the shapes of each without batch dimensions.
        total: whether outputs are summed over the last batch dimension.
        uniform: the inputs that are the same for all points that run in lanes.
        native: whether there is compiled code; else CasADi's interpreter does the work.
    """

    def __init__(
        self,
        flat: Any,
        inputs: list[tuple[int, ...]],
        outputs: list[tuple[int, ...]],
        total: bool,
        uniform: Sequence[int] = (),
    ) -> None:
        self.inputs, self.outputs, self.total, self.uniform = inputs, outputs, total, tuple(uniform)
        self._flat = flat
        self._entry: Entry | None = None
        self._told: dict[str, Any] | None = None  # where the code is kept

    @property
    def native(self) -> bool:
        """See the class."""
        return self._entry is not None

    def __call__(self, *inputs: Any, out: Any = None) -> Any:
        """The outputs for `inputs`: one array, or a tuple of arrays if there are several outputs.

        Args:
            *inputs: arrays of float64, of any strides; others are converted.
            out: arrays to write to, of exactly the outputs' shapes (one array if there is one output), not
                overlapping each other. Where one shares memory with an input, a point's outputs may only overwrite
                inputs of that same point.

        Raises:
            ValueError: a number of inputs, or shapes, that do not fit; or an `out` that can not be written to.
        """
        if len(inputs) != len(self.inputs):
            raise ValueError(f"the function takes {len(self.inputs)} inputs, not {len(inputs)}")
        arrays = [_numbers(x) for x in inputs]
        leading = []
        for k, (array, core) in enumerate(zip(arrays, self.inputs)):
            more = array.ndim - len(core)
            if more < 0 or array.shape[more:] != core:
                raise ValueError(f"input {k} has shape {array.shape}, not (..., {', '.join(map(str, core))})")
            leading.append(array.shape[:more])
        batch = np.broadcast_shapes(*leading)
        if self.total and not batch:
            raise ValueError("outputs are summed over the last batch dimension, and there is none")
        arrays = [
            a if shape == batch else np.broadcast_to(a, batch + core)
            for a, shape, core in zip(arrays, leading, self.inputs)
        ]
        results = self._results(batch[:-1] if self.total else batch, out)
        if math.prod(batch):
            self._evaluate(batch, arrays, results)
        else:
            for result in results:
                result[...] = 0.0  # the sums of nothing
        return tuple(results) if len(results) > 1 else results[0]

    def _results(self, batch: tuple[int, ...], out: Any) -> list[np.ndarray]:
        shapes = [batch + core for core in self.outputs]
        if out is None:
            return [np.empty(shape) for shape in shapes]
        given = [out] if isinstance(out, np.ndarray) else list(out)
        fit = len(given) == len(shapes) and all(
            o.shape == shape and o.dtype == np.float64 and o.flags.writeable and o.flags.aligned
            for o, shape in zip(given, shapes)
        )
        if not fit:
            said = ", ".join(f"{o.dtype} {o.shape}" for o in given)
            raise ValueError(f"out is {said}; it must be writable arrays of float64 {', '.join(map(str, shapes))}")
        return given

    def _evaluate(self, batch: tuple[int, ...], arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        if not self.native:
            self._interpret(batch, arrays, results)
            return
        # The innermost two batch dimensions are the native code's own loops; the longer one runs in lanes.
        depth = min(len(batch), 2)
        loops: tuple[int | None, int | None] = (None, None)
        if self.total:
            loops = (0, 1) if depth == 2 else (None, 0)
        elif depth:
            loops = (0, None) if depth == 1 else (0, 1) if batch[-2] >= batch[-1] else (1, 0)
        points, steps = (1 if axis is None else batch[len(batch) - depth + axis] for axis in loops)
        for outer in np.ndindex(batch[:-2]):
            inside = [a[outer] for a in arrays] if outer else arrays
            made = [r[outer] for r in results] if outer else results
            table = [rows(a, depth, *loops) for a in inside]
            for k in self.uniform:
                if table[k][:, 1].any():
                    raise ValueError(f"input {k} must be the same for all points")
            table += [rows(r, depth - self.total, loops[0], None if self.total else loops[1]) for r in made]
            self.bind(points, steps, np.concatenate(table))()

    def bind(self, points: int, steps: int, table: np.ndarray) -> Callable[[], None]:
        """The native code for `points` times `steps` points, at least one, wherever they lie in memory.

        What is returned evaluates them at each call. It keeps the table, and whoever calls it the arrays.

        Args:
            points: run in lanes.
            steps: run one after the other, or are summed over.
            table: (entries, 3), int64, C-contiguous, with a row for each entry of all inputs, and then of all outputs:
                the address of its first number, and how many bytes lie between it and that of the next point, and of
                the next step; see `rows`. Where steps are summed over, the last is of no account for outputs.

        Raises:
            RuntimeError: there is no native code.
        """
        if self._entry is None:
            raise RuntimeError("this function was not compiled to native code")
        return functools.partial(self._entry, points, steps, table.ctypes.data_as(ctypes.c_void_p))

    def call(self, points: int, steps: int, table: np.ndarray) -> None:
        """As `bind`, once."""
        self.bind(points, steps, table)()

    def _interpret(self, batch: tuple[int, ...], arrays: list[np.ndarray], results: list[np.ndarray]) -> None:
        points = [a.reshape(-1, math.prod(core)) for a, core in zip(arrays, self.inputs)]
        found = self._flat(np.concatenate(points, -1).T).full().T
        at = 0
        for result, core in zip(results, self.outputs):
            entries = found[:, at : at + math.prod(core)].reshape(batch + core)
            result[...] = entries.sum(len(batch) - 1) if self.total else entries
            at += math.prod(core)


def told(bound: Callable[[], None]) -> list[int] | None:
    """What native code needs to do what `bound` does, see `Kernel.bind`: an address, the counts, the table's address.

    None where it is no native code.
    """
    if not isinstance(bound, functools.partial) or not isinstance(bound.func, KIND):
        return None
    points, steps, table = bound.args
    return [ctypes.cast(bound.func, ctypes.c_void_p).value or 0, points, steps, table.value]


def _numbers(x: Any) -> np.ndarray:
    array = np.asarray(x, float)
    return array if array.flags.aligned else array.copy()


def rows(array: np.ndarray, batch: int, points: int | None, steps: int | None) -> np.ndarray:
    """Where the entries of `array` lie, (entries, 3), for `Kernel.bind`.

    Args:
        array: of float64; its first `batch` dimensions are no entries. Of the others, the last counts fastest.
        batch: number of batch dimensions.
        points: the batch dimension that points run along; None where there is but one point.
        steps: the same of steps.
    """
    table = _offsets(array.shape, array.strides, batch, points, steps).copy()
    table[:, 0] += array.ctypes.data
    return table


@functools.lru_cache(maxsize=256)
def _offsets(
    shape: tuple[int, ...], strides: tuple[int, ...], batch: int, points: int | None, steps: int | None
) -> np.ndarray:
    """The table of an array whose first number is at address 0."""
    entries = shape[batch:]
    offsets = np.zeros(entries, np.int64)
    for axis, (size, stride) in enumerate(zip(entries, strides[batch:])):
        offsets += (stride * np.arange(size)).reshape(-1, *[1] * (len(entries) - 1 - axis))
    table = np.zeros((offsets.size, 3), np.int64)
    table[:, 0] = offsets.ravel()
    table[:, 1] = 0 if points is None else strides[points]
    table[:, 2] = 0 if steps is None else strides[steps]
    return table


def compile(
    function: Any, *, total: bool = False, nan: Literal["ignored", "kept"] = "ignored", uniform: Sequence[int] = ()
) -> Kernel:
    """Compiles the CasADi function `function`, of SX expressions or of what expands to them.

    Args:
        function: a `casadi.Function`.
        total: sum the outputs over the last batch dimension, in its order.
        nan: what the least and the greatest of a number and not-a-number are: the number, as in C and in CasADi
            (`ignored`), or not a number, as in NumPy (`kept`; native code only).
        uniform: which inputs are the same for all points that run in lanes: native code reads them once.

    Raises:
        ValueError: the function does not expand to SX expressions, or has no inputs or no outputs.
    """
    if not (function.n_in() and function.n_out()):
        raise ValueError(
            f"{function.name()} has {function.n_in()} inputs and {function.n_out()} outputs, not some of each"
        )
    flat, inputs, outputs = _flattened(function)
    kernel = Kernel(flat, inputs, outputs, total, uniform)
    sizes = [math.prod(core) for core in inputs]
    alike = {i for k in uniform for i in range(sum(sizes[:k]), sum(sizes[: k + 1]))}
    code = _assembly(flat, total, nan == "kept", alike)
    if code is not None:
        text = code.module(NAME, "i64 %points, i64 %steps, ptr %table") + "\n!0 = !{}\n"
        kernel._entry = load(text, code.library)
        here = machine()
        if here is not None:
            kernel._told = {"code": here.key(text), "library": sorted(code.library)}
    return kernel


def remembered(
    key: str,
    build: Callable[[], Any],
    *,
    nan: Literal["ignored", "kept"] = "ignored",
    uniform: Sequence[int] = (),
) -> Kernel:
    """The kernel of the function that `build` makes, which it need not where the disk holds the kernel.

    Args:
        key: stands for all that the function depends on, the code that makes it included: where it is the same, the
            function must be.
        build: makes the `casadi.Function`.
        nan: as for `compile`.
        uniform: the same.
    """
    note = remembered_note(f"{nan} {tuple(uniform)} {key}")
    if note is not None and (found := read(note)) is not None:
        told = json.loads(found)
        entry = recall(told["code"], told["library"])
        if entry is not None:
            inputs, outputs = ([tuple(shape) for shape in told[k]] for k in ("inputs", "outputs"))
            kernel = Kernel(None, inputs, outputs, False, uniform)
            kernel._entry = entry
            return kernel
    kernel = compile(build(), nan=nan, uniform=uniform)
    if note is not None and kernel.native and kernel._told is not None:
        write(note, json.dumps(kernel._told | {"inputs": kernel.inputs, "outputs": kernel.outputs}).encode())
    return kernel


def remembered_note(key: str) -> str | None:
    """Under what to keep a note of `key` on disk, this machine and the code that compiles told in; None without one."""
    here = machine()
    return None if here is None else here.key(f"note of {_own_code()} {key}")


@functools.cache
def _own_code() -> str:
    """A hash of the code that compiles."""
    files = (Path(__file__).parent / name for name in ("codegen.py", "lanes.py", "native.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _flattened(function: Any) -> tuple[Any, list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The function of one dense column that holds all inputs' entries, rows first, to one column of all outputs'."""
    import casadi as ca

    shapes_in = [function.size_in(k) for k in range(function.n_in())]
    shapes_out = [function.size_out(k) for k in range(function.n_out())]
    x = ca.SX.sym("x", sum(r * c for r, c in shapes_in))
    parts, at = [], 0
    for r, c in shapes_in:
        parts.append(ca.reshape(x[at : at + r * c], c, r).T)
        at += r * c
    try:
        found = function.call(parts)
    except RuntimeError as error:
        raise ValueError(f"{function.name()} does not expand to SX expressions: {error}") from error
    flat = ca.Function(function.name(), [x], [ca.densify(ca.vertcat(*(ca.vec(o.T) for o in found)))])
    return flat, [_core(s) for s in shapes_in], [_core(s) for s in shapes_out]


def _core(shape: tuple[int, int]) -> tuple[int, ...]:
    return shape if shape[1] != 1 else shape[:1]


# From instructions to assembly ---------------------------------------------------------------------------------------


@functools.cache
def _operations(kept: bool) -> dict[int, Callable[..., Value]]:
    """What to write for each CasADi operation, given the assembly and the operands."""
    import casadi as ca

    def truth(mask: str, code: Assembly) -> Value:
        return code.select(mask, 1.0, 0.0)

    def holds(code: Assembly, x: Value) -> str:
        return code.compare("une", x, 0.0)

    def sign(code: Assembly, x: Value) -> Value:
        positive = code.select(code.compare("ogt", x, 0.0), 1.0, x)
        return code.select(code.compare("olt", x, 0.0), -1.0, positive)

    def tangent(code: Assembly, x: Value) -> Value:
        sine, cosine = code.sine_cosine(x)
        return sine / cosine

    least, greatest = ("minimum", "maximum") if kept else ("minnum", "maxnum")
    table: dict[str, Callable[..., Value]] = {
        "ASSIGN": lambda code, x: x,
        "LIFT": lambda code, x, y: x,
        "ADD": lambda code, x, y: x + y,
        "SUB": lambda code, x, y: x - y,
        "MUL": lambda code, x, y: x * y,
        "DIV": lambda code, x, y: x / y,
        "NEG": lambda code, x: -x,
        "SQ": lambda code, x: x * x,
        "TWICE": lambda code, x: x + x,
        "INV": lambda code, x: 1.0 / x,
        "SQRT": lambda code, x: code.intrinsic("sqrt", x),
        "FABS": lambda code, x: code.intrinsic("fabs", x),
        "FLOOR": lambda code, x: code.intrinsic("floor", x),
        "CEIL": lambda code, x: code.intrinsic("ceil", x),
        "COPYSIGN": lambda code, x, y: code.intrinsic("copysign", x, y),
        "FMIN": lambda code, x, y: code.intrinsic(least, x, y),
        "FMAX": lambda code, x, y: code.intrinsic(greatest, x, y),
        "SIGN": sign,
        "LT": lambda code, x, y: truth(code.compare("olt", x, y), code),
        "LE": lambda code, x, y: truth(code.compare("ole", x, y), code),
        "EQ": lambda code, x, y: truth(code.compare("oeq", x, y), code),
        "NE": lambda code, x, y: truth(code.compare("une", x, y), code),
        "NOT": lambda code, x: truth(code.compare("oeq", x, 0.0), code),
        "AND": lambda code, x, y: truth(code.both(holds(code, x), holds(code, y)), code),
        "OR": lambda code, x, y: truth(code.either(holds(code, x), holds(code, y)), code),
        "IF_ELSE_ZERO": lambda code, x, y: code.select(holds(code, x), y, 0.0),
        "SIN": lambda code, x: code.sine_cosine(x)[0],
        "COS": lambda code, x: code.sine_cosine(x)[1],
        "TAN": tangent,
        "EXP": lambda code, x: code.exponential(x),
        "LOG": lambda code, x: code.logarithm(x),
        "CONSTPOW": lambda code, x, y: code.by_lane("pow", x, y),
    }

    def library(name: str) -> Callable[..., Value]:
        return lambda code, *operands: code.by_lane(name, *operands)

    for name in LIBRARY:
        table.setdefault(name.upper(), library(name))
    return {getattr(ca, f"OP_{name}"): write for name, write in table.items()}


def _assembly(flat: Any, total: bool, kept: bool, uniform: Set[int]) -> Assembly | None:
    """The function's loops over points and steps; None where an instruction is none that we know."""
    here = machine()
    if here is None:
        return None
    import casadi as ca

    operations = _operations(kept)
    code = Assembly(here.width)
    n_in, n_out = flat.nnz_in(0), flat.nnz_out(0)
    carried = [str(k) for k in range(n_out)] if total else []
    with code.loop("point", "%points", code.width, []) as (point, _):
        # The last lanes may have no points of their own: they repeat the last point.
        lanes = [_lane(code, point, k) for k in range(code.width)]
        with code.loop("step", "%steps", 1, carried) as (step, sums):
            registers: dict[int, Value] = {}
            found: dict[int, Value] = {}
            for k in range(flat.n_instructions()):
                operation = flat.instruction_id(k)
                operands, target = flat.instruction_input(k), flat.instruction_output(k)
                if operation == ca.OP_INPUT:
                    entry = operands[1]
                    registers[target[0]] = _load(code, entry, [lanes[0]] if entry in uniform else lanes, step)
                elif operation == ca.OP_OUTPUT:
                    found[target[1]] = registers[operands[0]]
                elif operation == ca.OP_CONST:
                    registers[target[0]] = code.constant(flat.instruction_constant(k))
                elif operation in operations:
                    registers[target[0]] = operations[operation](code, *(registers[i] for i in operands))
                else:
                    return None
            for k in range(n_out):
                value = found.get(k, code.constant(0.0))
                if total:
                    sums[k] = (Value(code, sums[k]) + value).name
                else:
                    _store(code, n_in + k, value, lanes, step)
        for k, last in enumerate(sums):
            _store(code, n_in + k, Value(code, last), lanes, None)
    return code


def _lane(code: Assembly, point: str, k: int) -> str:
    """Index of the point in lane `k`."""
    code.declarations.add("declare i64 @llvm.smin.i64(i64, i64)")
    last = code.let("sub i64 %points, 1")
    index = code.let(f"add i64 {point}, {k}")
    return code.let(f"call i64 @llvm.smin.i64(i64 {index}, i64 {last})")


def _places(code: Assembly, entry: int, lanes: list[str], step: str | None) -> list[str]:
    """Pointers to the numbers that row `entry` of the table tells, for the points in the lanes."""
    numbers = []
    for column in range(3 if step is not None else 2):
        place = code.let(f"getelementptr i64, ptr %table, i64 {3 * entry + column}")
        numbers.append(code.let(f"load i64, ptr {place}, !invariant.load !0"))
    base = numbers[0]
    if step is not None:
        base = code.let(f"add i64 {base}, {code.let(f'mul i64 {step}, {numbers[2]}')}")
    start = code.let(f"inttoptr i64 {base} to ptr")
    return [
        code.let(f"getelementptr i8, ptr {start}, i64 {code.let(f'mul i64 {lane}, {numbers[1]}')}") for lane in lanes
    ]


def _load(code: Assembly, entry: int, lanes: list[str], step: str) -> Value:
    """The numbers of the points in the lanes; that of one alone is in all lanes."""
    result = "poison"
    for lane, place in enumerate(_places(code, entry, lanes, step)):
        number = code.let(f"load double, ptr {place}, align 8")
        result = code.let(f"insertelement {code.vector} {result}, double {number}, i32 {lane}")
    return code.spread(result) if len(lanes) == 1 < code.width else Value(code, result)


def _store(code: Assembly, entry: int, value: Value, lanes: list[str], step: str | None) -> None:
    for lane, place in enumerate(_places(code, entry, lanes, step)):
        number = code.let(f"extractelement {code.vector} {value.name}, i32 {lane}")
        code.do(f"store double {number}, ptr {place}, align 8")
