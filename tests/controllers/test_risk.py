import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from trimtab.controllers.risk import across_members

costs = arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(-1e3, 1e3))
levels = st.floats(0.01, 1.0)


@given(costs, levels)
def test_cvar_lies_between_mean_and_worst(c, level):
    value = across_members(c, "cvar", level)
    assert (value >= across_members(c, "mean") - 1e-9).all()
    assert (value <= across_members(c, "worst") + 1e-9).all()


@given(costs)
def test_cvar_limits(c):
    np.testing.assert_allclose(across_members(c, "cvar", 1.0), c.mean(0), atol=1e-9)
    np.testing.assert_array_equal(across_members(c, "cvar", 1e-9), c.max(0))


@given(costs, levels, levels)
def test_cvar_falls_with_its_level(c, one, other):
    low, high = sorted((one, other))
    assert (across_members(c, "cvar", low) >= across_members(c, "cvar", high) - 1e-9).all()


def test_cvar_is_the_minimum_over_thresholds():
    # Rockafellar and Uryasev: CVaR = min_a a + mean(max(c - a, 0)) / level, attained at one of the costs.
    c = np.random.default_rng(0).normal(size=(7, 5))
    for level in (0.2, 0.35, 0.5, 0.9):
        excess = np.maximum(c[None] - c[:, None], 0.0).mean(1) / level
        np.testing.assert_allclose(across_members(c, "cvar", level), (c + excess).min(0), atol=1e-12)


@given(costs, st.floats(1e-3, 1e3))
def test_exponential_lies_between_mean_and_worst(c, level):
    value = across_members(c, "exponential", level)
    assert (value >= c.mean(0) - 1e-6).all()
    assert (value <= c.max(0) + 1e-6).all()


@given(costs)
def test_exponential_limits(c):
    np.testing.assert_allclose(across_members(c, "exponential", 1e-9), c.mean(0), atol=1e-2)
    np.testing.assert_allclose(across_members(c, "exponential", 1e6), c.max(0), atol=1e-4)


def test_exponential_of_normal_costs_is_mean_plus_half_b_variance():
    c = 3.0 + 2.0 * np.random.default_rng(0).standard_normal((400_000, 1))
    assert across_members(c, "exponential", 0.5)[0] == pytest.approx(3.0 + 0.5 * 0.5 * 4.0, abs=0.03)


@pytest.mark.parametrize("risk", ["mean", "worst", "cvar", "exponential"])
def test_shifting_costs_shifts_the_risk(risk):
    c = np.random.default_rng(0).normal(size=(6, 4))
    np.testing.assert_allclose(across_members(c + 7.0, risk, 0.4), across_members(c, risk, 0.4) + 7.0)


@pytest.mark.parametrize("risk", ["mean", "worst", "cvar", "exponential"])
def test_an_infinite_cost_is_infinitely_risky(risk):
    c = np.array([[1.0, 1.0], [np.inf, 2.0], [3.0, 3.0]])
    value = across_members(c, risk, 0.7)
    assert value[0] == np.inf
    assert 2.0 <= value[1] <= 3.0


@pytest.mark.parametrize("risk", ["mean", "worst", "cvar", "exponential"])
def test_one_member_is_its_own_risk(risk):
    c = np.array([[1.0, -2.0, np.inf]])
    np.testing.assert_array_equal(across_members(c, risk, 0.3), c[0])


@pytest.mark.parametrize(
    ("risk", "level", "message"),
    [
        ("median", 0.5, "unknown risk 'median'; known: mean, worst, cvar, exponential"),
        ("cvar", 0.0, r"cvar takes a level in \(0, 1\], not 0.0"),
        ("cvar", 1.1, r"\(0, 1\]"),
        ("exponential", -1.0, "above 0"),
    ],
)
@pytest.mark.parametrize("members", [1, 3])
def test_wrong_arguments(risk, level, message, members):
    with pytest.raises(ValueError, match=message):
        across_members(np.ones((members, 2)), risk, level)
