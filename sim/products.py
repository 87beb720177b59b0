"""Products of small matrices in native code, for loops in numba that multiply many of them.

A library's matrix product takes longer to begin than these take; and loops over lengths that are not known beforehand
are no vectors to a compiler. Here, rows of the result stay in registers, a vector of columns each.
"""

import ctypes
import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .lanes import Assembly, Value
from .native import NAME, Entry, load, machine

WIDEST = 4
"""Vectors of a row that are worked on at once: two rows of them, and their factors, fit into 16 registers."""


def vectors_of(columns: int) -> int:
    """How many vectors a row of `columns` numbers takes."""
    return -(-columns // _width())


def padded(columns: int) -> int:
    """How long rows of `columns` numbers must be in memory: a whole number of vectors."""
    return vectors_of(columns) * _width()


def _width() -> int:
    here = machine()
    assert here is not None  # numba, that the loops are in, compiles with the same library
    return here.width


_entries: list[Entry] = []
"""What owns the code at the addresses given."""


def _address_of(code: Assembly) -> int:
    """Where the compiled code begins; it stays for the life of the process."""
    entry = load(code.module(NAME, "i64 %rows, i64 %inner, ptr %table") + "\n!0 = !{}\n", code.library)
    assert entry is not None  # it calls nothing that could be missing
    _entries.append(entry)
    return ctypes.cast(entry, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


@functools.cache
def product(vectors: int, together: int = 2) -> int:
    """Native code for C = s (C_0 + A' B), a row of C scaled by its own s, as its address for `multiply`.

    Args:
        vectors: that rows of C, C_0 and B are long, see `vectors_of`.
        together: rows of C that are worked on at once, 1 or 2.
    """
    code = Assembly(_width())
    code.declarations.add("declare i64 @llvm.smin.i64(i64, i64)")
    c, c_row, c0, c0_row, a, a_inner, a_row, b, b_row, s, s_row = _told(code, 11)
    last = code.let("sub i64 %rows, 1")
    for block in _blocks(vectors):
        with code.loop(f"row{block[0]}", "%rows", together) as (first, _):
            group = [first]
            for r in range(1, together):
                # Where rows end, the last is computed again.
                following = code.let(f"add i64 {first}, {r}")
                group.append(code.let(f"call i64 @llvm.smin.i64(i64 {following}, i64 {last})"))
            left = [_moved(code, a, (row, a_row)) for row in group]
            sums = _sums(code, f"inner{block[0]}", "%inner", left, a_inner, b, b_row, block)
            results = []
            for row, added in zip(group, sums):
                scale, start = _number(code, _moved(code, s, (row, s_row))), _moved(code, c0, (row, c0_row))
                results.append([scale * (_vector(code, start, v) + total) for v, total in zip(block, added)])
            for row, result in zip(group, results):
                _store(code, _moved(code, c, (row, c_row)), block, result)
    return _address_of(code)


@functools.cache
def substitution(vectors: int) -> int:
    """Native code that solves L L' X = B in place of B, as its address for `substitute`.

    Args:
        vectors: that rows of B are long, see `vectors_of`.
    """
    code = Assembly(_width())
    code.declarations |= {f"declare i64 @llvm.{name}.i64(i64, i64)" for name in ("smin", "smax")}
    x, x_row, minus, minus_row, inverse = _told(code, 5)
    last = code.let("sub i64 %rows, 1")
    for block in _blocks(vectors):

        def replace(row: str, added: list[Value], block: range = block) -> None:
            at, scale = _moved(code, x, (row, x_row)), _number(code, _moved(code, inverse, (row, "8")))
            _store(code, at, block, [scale * (_vector(code, at, v) + total) for v, total in zip(block, added)])

        # The sums of the first rows, and of the last, are those of a row times zero: no sum is empty.
        with code.loop(f"down{block[0]}", "%rows", 1) as (row, _):
            count = code.let(f"call i64 @llvm.smax.i64(i64 {row}, i64 1)")
            left = _moved(code, minus, (row, minus_row))
            replace(row, _sums(code, f"above{block[0]}", count, [left], "8", x, x_row, block)[0])
        with code.loop(f"up{block[0]}", "%rows", 1) as (index, _):
            row = code.let(f"sub i64 {last}, {index}")
            count = code.let(f"call i64 @llvm.smax.i64(i64 {index}, i64 1)")
            following = code.let(f"add i64 {row}, 1")
            after = code.let(f"call i64 @llvm.smin.i64(i64 {following}, i64 {last})")
            left = _moved(code, minus, (after, minus_row), (row, "8"))
            replace(
                row,
                _sums(
                    code, f"below{block[0]}", count, [left], minus_row, _moved(code, x, (after, x_row)), x_row, block
                )[0],
            )
    return _address_of(code)


def _told(code: Assembly, entries: int) -> list[str]:
    """The table's numbers: addresses, and distances in bytes."""
    told = []
    for entry in range(entries):
        place = code.let(f"getelementptr i64, ptr %table, i64 {entry}")
        told.append(code.let(f"load i64, ptr {place}, !invariant.load !0"))
    return told


def _blocks(vectors: int) -> list[range]:
    return [range(begin, min(begin + WIDEST, vectors)) for begin in range(0, vectors, WIDEST)]


def _sums(
    code: Assembly, name: str, count: str, left: list[str], left_row: str, right: str, right_row: str, block: range
) -> list[list[Value]]:
    """sum_l a_l B_l over `count` terms for each of the columns a that begin at `left`: vectors of the block."""
    carried = [f"c{r}_{v}" for r in range(len(left)) for v in block]
    with code.loop(name, count, 1, carried) as (inner, sums):
        row = _moved(code, right, (inner, right_row))
        vectors = [_vector(code, row, v) for v in block]
        for r, begin in enumerate(left):
            factor = _number(code, _moved(code, begin, (inner, left_row)))
            for at, vector in enumerate(vectors, r * len(block)):
                sums[at] = code.intrinsic("fmuladd", factor, vector, Value(code, sums[at])).name
    return [[Value(code, sums[r * len(block) + i]) for i in range(len(block))] for r in range(len(left))]


def _moved(code: Assembly, address: str, *along: tuple[str, str]) -> str:
    """The address so many steps along each of these distances [bytes]."""
    for index, distance in along:
        address = code.let(f"add i64 {address}, {code.let(f'mul i64 {index}, {distance}')}")
    return address


def _pointer(code: Assembly, address: str, vector: int) -> str:
    start = code.let(f"inttoptr i64 {address} to ptr")
    return code.let(f"getelementptr i8, ptr {start}, i64 {8 * code.width * vector}") if vector else start


def _vector(code: Assembly, address: str, vector: int) -> Value:
    return Value(code, code.let(f"load {code.vector}, ptr {_pointer(code, address, vector)}, align 8"))


def _number(code: Assembly, address: str) -> Value:
    """A number, in all lanes."""
    number = code.let(f"load double, ptr {_pointer(code, address, 0)}, align 8")
    one = code.let(f"insertelement {code.vector} poison, double {number}, i32 0")
    return code.spread(one)


def _store(code: Assembly, address: str, block: range, values: list[Value]) -> None:
    for v, value in zip(block, values):
        code.do(f"store {code.vector} {value.name}, ptr {_pointer(code, address, v)}, align 8")


@intrinsic
def _call(typing, function, rows, inner, table):  # type: ignore[no-untyped-def]
    """Calls native code at an address with three integers, in numba.

    Numba's own types for functions take 15 us each to pass to compiled code.
    """

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [whole] * 3)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), write


call: Any = _call


@njit(inline="always")
def address(array):  # type: ignore[no-untyped-def]
    """Where a contiguous array's numbers begin; the array must be named again after their last use."""
    return np.int64(array.ctypes.data)


@njit(inline="always")
def multiply(product, table, rows, inner, c, c_row, c0, c0_row, a, a_inner, a_row, b, b_row, s, s_row):  # type: ignore[no-untyped-def]
    """C_ij = s_i (C_0,ij + sum_l A_li B_lj) for `rows` rows i and `inner` terms l, at least one of each, in numba.

    `product` is that for as many columns, `table` (11,) int64, to write on. `c`, `c0`, `a`,
    `b` and `s` are addresses; what follows them, the bytes from one row to the next, of `a` also from one term to the
    next. C may be C_0, and in one array with B if it comes before or after all rows of B.
    """
    table[0], table[1], table[2], table[3] = c, c_row, c0, c0_row
    table[4], table[5], table[6] = a, a_inner, a_row
    table[7], table[8], table[9], table[10] = b, b_row, s, s_row
    call(product, rows, inner, address(table))
    table[0] = 0  # so that it lives until here


@njit(inline="always")
def substitute(substitution, table, rows, x, x_row, minus, minus_row, inverse):  # type: ignore[no-untyped-def]
    """Solves L L' X = B in place of B, in numba, L lower triangular of `rows` rows, at least one.

    `substitution` is that for as many columns, `table` (5,) int64 or longer, to write on. The rest
    are addresses, and the bytes from one row to the next: of X; of -L with zeros on the diagonal; of 1 / L_ii.
    """
    table[0], table[1], table[2], table[3], table[4] = x, x_row, minus, minus_row, inverse
    call(substitution, rows, rows, address(table))
    table[0] = 0
