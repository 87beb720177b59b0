"""Compiled functions against CasADi's own evaluation, and against exact numbers."""

import os
import subprocess
import sys
import textwrap

import casadi as ca
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimtab.sim import codegen, native

EXACT_UNARY = ["NEG", "SQRT", "SQ", "TWICE", "FLOOR", "CEIL", "NOT", "FABS", "SIGN", "INV"]
EXACT_BINARY = [
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "LT",
    "LE",
    "EQ",
    "NE",
    "AND",
    "OR",
    "COPYSIGN",
    "FMIN",
    "FMAX",
    "IF_ELSE_ZERO",
]
UNARY = [
    *EXACT_UNARY,
    "ASSIGN",
    "EXP",
    "LOG",
    "SIN",
    "COS",
    "TAN",
    "ASIN",
    "ACOS",
    "ATAN",
    "ERF",
    "SINH",
    "COSH",
    "TANH",
    "ASINH",
    "ACOSH",
    "ATANH",
    "LOG1P",
    "EXPM1",
]
BINARY = [*EXACT_BINARY, "POW", "CONSTPOW", "FMOD", "REMAINDER", "ATAN2", "HYPOT", "LIFT"]

SPECIAL = np.array(
    [0.0, 1.0, 0.5, 2.0, 3.0, 1e-300, 5e-324, 1e300, 1e18, 7e5, 709.7, 745.0, 1e-8, 0.7, np.pi / 2, np.inf, np.nan]
)
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache folder of this run's own."""
    folder = tmp_path_factory.getbasetemp() / "kernels"
    monkeypatch.setenv(native.ENVIRONMENT, str(folder))
    return folder


@pytest.fixture
def forgetful(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(native, "_loaded", {})


@pytest.fixture
def without_llvmlite(monkeypatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    native.machine.cache_clear()
    yield
    native.machine.cache_clear()


def numbers(n=300):
    """Numbers of all sizes, near and far, and the special ones."""
    rng = np.random.default_rng(0)
    return np.concatenate([SPECIAL, rng.uniform(-4, 4, n), rng.standard_normal(n) * 10.0 ** rng.uniform(-9, 5, n)])


def interpreted(f, *columns):
    """CasADi's evaluation for all points at once; entries last."""
    return f(*(np.atleast_2d(c) for c in columns)).full().T


def assert_same(found, expected, rtol):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=5e-324)


@pytest.mark.parametrize("name", UNARY)
def test_every_function_of_one_number(name):
    x, v = ca.SX.sym("x"), numbers()
    f = ca.Function("f", [x], [ca.SX.unary(getattr(ca, f"OP_{name}"), x)])
    kernel = codegen.compile(f)
    assert kernel.native
    assert_same(kernel(v[:, None]), interpreted(f, v), 1e-13)


@pytest.mark.parametrize("name", BINARY)
def test_every_function_of_two_numbers(name):
    x, y = ca.SX.sym("x"), ca.SX.sym("y")
    a, b = (m.ravel() for m in np.meshgrid(SPECIAL, SPECIAL))
    more = numbers()
    a, b = np.concatenate([a, more, more]), np.concatenate([b, more[::-1], more])
    f = ca.Function("f", [x, y], [ca.SX.binary(getattr(ca, f"OP_{name}"), x, y)])
    kernel = codegen.compile(f)
    assert kernel.native
    assert_same(kernel(a[:, None], b[:, None]), interpreted(f, a, b), 1e-13)


def test_what_is_not_compiled_is_interpreted():
    x, v = ca.SX.sym("x"), np.linspace(-0.99, 0.99, 7)
    f = ca.Function("f", [x], [ca.erfinv(x)])
    kernel = codegen.compile(f)
    assert not kernel.native
    np.testing.assert_array_equal(kernel(v[:, None]), interpreted(f, v))
    with pytest.raises(RuntimeError, match="not compiled"):
        kernel.call(1, 1, np.zeros((2, 3), np.int64))


@pytest.mark.parametrize(
    ("name", "low", "high", "most"),
    [("sin", -1e6, 1e6, 1.0), ("cos", -1e6, 1e6, 1.0), ("exp", -745, 709.7, 1.0), ("log", 1e-300, 1e300, 1.0)],
)
@pytest.mark.parametrize("near", [True, False])
def test_own_functions_are_right_to_the_last_place(name, low, high, most, near):
    rng = np.random.default_rng(1)
    if name == "log":
        v = 1.0 + 0.2 * rng.uniform(-1, 1, 2000) if near else np.exp(rng.uniform(np.log(low), np.log(high), 2000))
    else:
        v = rng.uniform(-3, 3, 2000) if near else rng.uniform(low, high, 2000)
    if name in ("sin", "cos") and not near:
        v[:500] = np.round(v[:500]) * (np.pi / 2)  # next to the zeros
    x = ca.SX.sym("x")
    found = codegen.compile(ca.Function("f", [x], [getattr(ca, name)(x)]))(v[:, None])[:, 0]
    with mpmath.workprec(200):
        for number, given in zip(found, v):
            exact = getattr(mpmath, name)(mpmath.mpf(float(given)))
            assert abs(mpmath.mpf(float(number)) - exact) <= most * np.spacing(abs(float(exact)))


def program(rng, inputs, unary, binary, length):
    """A random expression of the given operations, that reuses what it has computed."""
    made = list(inputs)
    for _ in range(length):
        if rng.random() < 0.4:
            operation, operands = rng.choice(unary), 1
        else:
            operation, operands = rng.choice(binary), 2
        chosen = [made[rng.integers(len(made))] for _ in range(operands)]
        if rng.random() < 0.1:
            chosen[-1] = ca.SX(float(rng.standard_normal()))
        apply = ca.SX.unary if operands == 1 else ca.SX.binary
        made.append(apply(getattr(ca, f"OP_{operation}"), *chosen))
    return made


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_rounded_operations_agree_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    x = ca.SX.sym("x", 4)
    # The sign of a not-a-number that an operation makes is nobody's promise, and copysign would hand it on.
    binary = [name for name in EXACT_BINARY if name != "COPYSIGN"]
    f = ca.Function("f", [x], [ca.vertcat(*program(rng, ca.vertsplit(x), EXACT_UNARY, binary, 40)[-6:])])
    v = np.concatenate([rng.standard_normal((30, 4)), rng.choice(SPECIAL[:15], (20, 4))])
    np.testing.assert_array_equal(codegen.compile(f)(v), interpreted(f, v.T))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_smooth_expressions_agree(seed):
    rng = np.random.default_rng(seed)
    x = ca.SX.sym("x", 4)
    tame = ["SIN", "COS", "TANH", "ATAN", "ERF"]  # bounded, with slopes of at most one: they let no error grow
    made = program(rng, ca.vertsplit(x), tame, ["HYPOT", "FMAX", "FMIN"], 20)
    f = ca.Function(
        "f", [x], [ca.vertcat(ca.exp(made[-1]), ca.log(made[-2] ** 2 + 1), made[-3] * made[-4], *made[-4:])]
    )
    v = rng.standard_normal((50, 4))
    np.testing.assert_allclose(codegen.compile(f)(v), interpreted(f, v.T), rtol=1e-12, atol=1e-13)


def pendulum():
    """f(x, u): a matrix with structural zeros, a scalar and a column."""
    x, u = ca.SX.sym("x", 2), ca.SX.sym("u", 1)
    step = ca.vertcat(x[0] + 0.1 * x[1], x[1] + 0.1 * (ca.sin(x[0]) + u))
    return ca.Function("step", [x, u], [step, ca.jacobian(step, ca.vertcat(x, u)), ca.sumsqr(x)])


def by_numpy(x, u):
    zero, one = np.zeros(x.shape[:-1]), np.ones(x.shape[:-1])
    step = np.stack([x[..., 0] + 0.1 * x[..., 1], x[..., 1] + 0.1 * (np.sin(x[..., 0]) + u[..., 0])], -1)
    rows = [[one, 0.1 * one, zero], [0.1 * np.cos(x[..., 0]), one, 0.1 * one]]
    return step, np.stack([np.stack(r, -1) for r in rows], -2), (x * x).sum(-1, keepdims=True)


def check_shapes(kernel):
    rng = np.random.default_rng(0)
    for batch in [(), (1,), (3,), (17,), (2, 9), (9, 2), (2, 3, 5), (1, 1, 1, 4), (0,), (3, 0)]:
        x, u = rng.standard_normal((*batch, 2)), rng.standard_normal((*batch, 1))
        for found, expected in zip(kernel(x, u), by_numpy(x, u)):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)
    # Broadcasting, and arrays that are no plain ones.
    x = rng.standard_normal((4, 1, 2, 6))[:, :, ::-1, ::2].transpose(0, 1, 3, 2)[:, 0]
    u = np.asfortranarray(rng.standard_normal((5, 1, 3, 1)).astype(np.float32))
    wide = np.broadcast_to(x, (5, 4, 3, 2)), np.broadcast_to(u, (5, 4, 3, 1))
    for found, expected in zip(kernel(x, u), by_numpy(*wide)):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_shapes_and_strides():
    kernel = codegen.compile(pendulum())
    assert kernel.native
    assert (kernel.inputs, kernel.outputs) == ([(2,), (1,)], [(2,), (2, 3), (1,)])
    check_shapes(kernel)


def test_without_llvmlite(without_llvmlite):
    kernel = codegen.compile(pendulum())
    assert not kernel.native
    check_shapes(kernel)
    check_sums(codegen.compile(pendulum(), total=True))


def test_a_point_never_depends_on_its_neighbours():
    kernel = codegen.compile(pendulum())
    x, u = np.random.default_rng(3).standard_normal((2, 37, 2))
    x[::5] *= 1e7  # the slow way of the sine
    x[3] = np.nan
    whole = kernel(x, u[:, :1])
    for n in (1, 2, 5, 8):
        for k in range(0, 37 - n, n):
            for part, all_of_them in zip(kernel(x[k : k + n], u[k : k + n, :1]), whole):
                np.testing.assert_array_equal(part, all_of_them[k : k + n])


def test_a_horizon_in_place():
    x, u = ca.SX.sym("x", 2), ca.SX.sym("u")
    kernel = codegen.compile(ca.Function("f", [x, u], [ca.vertcat(x[1], x[0] * u)]))
    path, u = np.empty((6, 4, 2)), np.random.default_rng(0).standard_normal((6, 3, 1))
    path[:, 0] = [1.0, 2.0]
    for k in range(3):
        assert kernel(path[:, k], u[:, k], out=path[:, k + 1]) is not None
    np.testing.assert_array_equal(path[:, 3, 1], path[:, 2, 0] * u[:, 2, 0])
    kernel(path[:, 3], u[:, 0], out=path[:, 3])  # onto itself
    np.testing.assert_array_equal(path[:, 3, 0], path[:, 2, 0] * u[:, 2, 0])


def check_sums(kernel):
    rng = np.random.default_rng(0)
    for batch in [(7,), (5, 6), (6, 1), (3, 2, 4), (4, 0)]:
        x, u = rng.standard_normal((*batch, 2)), rng.standard_normal((*batch, 1))
        for found, each in zip(kernel(x, u), by_numpy(x, u)):
            np.testing.assert_allclose(found, each.sum(len(batch) - 1), rtol=1e-13, atol=1e-14)


def test_sums_over_the_last_batch_dimension():
    kernel = codegen.compile(pendulum(), total=True)
    assert kernel.native
    check_sums(kernel)
    with pytest.raises(ValueError, match="last batch dimension"):
        kernel(np.zeros(2), np.zeros(1))


def test_not_a_number_is_kept_where_asked():
    x = ca.SX.sym("x", 2)
    f = ca.Function("f", [x], [ca.vertcat(ca.fmax(x[0], x[1]), ca.fmin(x[0], x[1]))])
    v = np.array([[np.nan, 1.0], [1.0, np.nan], [2.0, 1.0]])
    np.testing.assert_array_equal(codegen.compile(f)(v), [[1, 1], [1, 1], [2, 1]])
    kept = codegen.compile(f, nan="kept")(v)
    np.testing.assert_array_equal(kept, [[np.nan, np.nan], [np.nan, np.nan], [2, 1]])


def test_wrong_arrays_are_named():
    kernel = codegen.compile(pendulum())
    x, u = np.zeros((3, 2)), np.zeros((3, 1))
    for wrong, message in [((x,), "2 inputs, not 1"), ((x, x), r"input 1 has shape \(3, 2\)"), ((0.0, u), "input 0")]:
        with pytest.raises(ValueError, match=message):
            kernel(*wrong)
    with pytest.raises(ValueError, match="broadcast"):
        kernel(x, np.zeros((4, 1)))
    good = [np.empty(s) for s in ((3, 2), (3, 2, 3), (3, 1))]
    for k, bad in [(0, np.empty((2, 2))), (1, np.empty((3, 2, 3), np.float32)), (2, np.broadcast_to(1.0, (3, 1)))]:
        with pytest.raises(ValueError, match="float64"):
            kernel(x, u, out=[bad if i == k else g for i, g in enumerate(good)])


def test_functions_of_matrices_take_rows_first():
    a, b = ca.SX.sym("a", 2, 3), ca.SX.sym("b", ca.Sparsity.lower(3))
    f = ca.MX.sym("m", 2, 3)
    outer = ca.Function("outer", [f], [2 * f.T])
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    np.testing.assert_array_equal(codegen.compile(outer)(x), 2 * x.transpose(0, 2, 1))  # of MX expressions
    y = np.random.default_rng(1).standard_normal((5, 3, 3))
    found = codegen.compile(ca.Function("f", [a, b], [a @ b]))(x, y)
    np.testing.assert_allclose(found, x @ np.tril(y), rtol=1e-13, atol=1e-15)


# The cache -----------------------------------------------------------------------------------------------------------


def square(factor):
    x = ca.SX.sym("x")
    return ca.Function("f", [x], [factor * x * x])


def never(*_):
    raise AssertionError("compiled again")


def test_compiled_code_is_kept(forgetful, tmp_path, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path / "a" / "b"))
    codegen.compile(square(3.0))
    (entry,) = (tmp_path / "a" / "b").iterdir()
    native._loaded.clear()
    with monkeypatch.context() as patch:
        patch.setattr(native, "_compiled", never)
        assert codegen.compile(square(3.0))([2.0]) == 12.0
        with pytest.raises(AssertionError, match="again"):
            codegen.compile(square(4.0))  # another function
        native._loaded.clear()
        machine = native.machine()
        patch.setattr(machine, "cpu", "another")
        with pytest.raises(AssertionError, match="again"):
            codegen.compile(square(3.0))  # another processor
    assert list((tmp_path / "a" / "b").iterdir()) == [entry]


def test_what_is_remembered_is_not_built(forgetful, tmp_path, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path))
    built = []

    def build():
        built.append(1)
        return square(7.0)

    def times():
        native._loaded.clear()
        built.clear()
        assert codegen.remembered("seven", build)([2.0]) == 28.0
        return len(built)

    assert [times(), times()] == [1, 0]
    note, code = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
    code.unlink()
    assert [times(), times()] == [1, 0]
    note.write_bytes(note.read_bytes()[:-1])
    assert [times(), times()] == [1, 0]
    assert codegen.remembered("eight", lambda: square(8.0))([2.0]) == 32.0
    assert np.isnan(codegen.remembered("seven", lambda: least(), nan="kept")([np.nan]))  # another function, then
    with monkeypatch.context() as patch:
        patch.setattr(codegen, "_own_code", lambda: "changed")
        assert times() == 1
        patch.setattr(codegen, "machine", lambda: None)
        assert times() == 1


def least():
    x = ca.SX.sym("x")
    return ca.Function("f", [x], [ca.fmin(x, 1.0)])


@pytest.mark.parametrize("damage", ["empty", "half", "flipped", "longer", "folder"])
def test_a_damaged_entry_is_written_anew(forgetful, tmp_path, monkeypatch, damage):
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path))
    codegen.compile(square(5.0))
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    middle = len(whole) // 2
    if damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        entry.write_bytes({"empty": b"", "half": whole[:middle], "flipped": flipped, "longer": whole + b"."}[damage])
    native._loaded.clear()
    assert codegen.compile(square(5.0))([2.0]) == 20.0
    assert [p.name for p in tmp_path.iterdir()] == [entry.name]
    assert damage == "folder" or entry.read_bytes() == whole


def test_a_folder_that_can_not_be_written_to(forgetful, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(native.ENVIRONMENT, str(tmp_path / "file" / "kernels"))
    assert codegen.compile(square(6.0))([2.0]) == 24.0


def test_the_users_cache_folder_is_the_default(monkeypatch):
    monkeypatch.delenv(native.ENVIRONMENT)
    assert "trimtab" in str(native.cache_folder())


def test_processes_at_once(tmp_path):
    code = """
        import casadi as ca
        from trimtab.sim import codegen, native
        x = ca.SX.sym("x", 3)
        kernel = codegen.compile(ca.Function("f", [x], [ca.sin(x) * ca.exp(x[::-1]) + ca.log(x * x + 1)]))
        assert kernel.native
        print(kernel([0.1, 0.2, 0.3]).tolist())
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            env={**os.environ, native.ENVIRONMENT: str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(told) == 1
    assert len(list(tmp_path.iterdir())) == 1
