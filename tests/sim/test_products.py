import gc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from trimtab.sim import native
from trimtab.sim.products import address, multiply, padded, product, substitute, substitution, vectors_of


@njit
def multiplied(code, rows, inner, c, c0, a, b, s):
    table = np.zeros(11, np.int64)
    multiply(
        code, table, rows, inner, address(c), 8 * c.shape[1], address(c0), 8 * c0.shape[1],
        address(a), 8 * a.shape[1], 8, address(b), 8 * b.shape[1], address(s), 8,
    )  # fmt: skip
    return c[0, 0], c0[0, 0], a[0, 0], b[0, 0], s[0]  # they live until here


@njit
def substituted(code, x, minus, inverse):
    table = np.zeros(11, np.int64)
    substitute(code, table, len(x), address(x), 8 * x.shape[1], address(minus), 8 * minus.shape[1], address(inverse))
    return x[0, 0], minus[0, 0], inverse[0]


def wide(rng, rows, columns):
    """Random entries, and not-a-numbers where rows are longer than their columns."""
    found = np.full((rows, padded(columns)), np.nan)
    found[:, :columns] = rng.standard_normal((rows, columns))
    return found


@pytest.mark.parametrize("together", [1, 2])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_products_are_numpys(together, rows, columns, inner, seed):
    rng = np.random.default_rng(seed)
    a, b, c0 = rng.standard_normal((inner, rows)), wide(rng, inner, columns), wide(rng, rows, columns)
    s, c = rng.standard_normal(rows), np.zeros((rows, padded(columns)))
    wanted = s[:, None] * (c0 + a.T @ b)[:, :columns]
    multiplied(product(vectors_of(columns), together), rows, inner, c, c0, a, b, s)
    np.testing.assert_allclose(c[:, :columns], wanted, rtol=1e-12, atol=1e-12)
    multiplied(product(vectors_of(columns), together), rows, inner, c0, c0, a, b, s)  # in place
    np.testing.assert_array_equal(c0[:, :columns], c[:, :columns])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_substitution_solves_with_a_choleskys_factor(rows, columns, seed):
    rng = np.random.default_rng(seed)
    lower = np.tril(rng.standard_normal((rows, rows)), -1) + np.diag(1.0 + rng.random(rows))
    x = wide(rng, rows, columns)
    wanted = np.linalg.solve(lower @ lower.T, x[:, :columns])
    substituted(substitution(vectors_of(columns)), x, -np.tril(lower, -1), 1.0 / np.diag(lower))
    np.testing.assert_allclose(x[:, :columns], wanted, rtol=1e-9, atol=1e-9)


def test_code_at_an_address_stays(monkeypatch):
    """Products are asked for by address alone: whatever else forgets compiled code, theirs is kept."""
    monkeypatch.setattr(native, "_loaded", {})
    code = product.__wrapped__(1, 1)
    entry = weakref.ref(next(iter(native._loaded.values())).engine)
    native._loaded.clear()
    gc.collect()
    assert entry() is not None
    c, c0, b = np.zeros((3, 1, padded(1)))
    multiplied(code, 1, 1, c, c0, np.ones((1, 1)), b + 2.0, np.ones(1))
    assert c[0, 0] == 2.0
