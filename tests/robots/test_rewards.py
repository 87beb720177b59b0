"""`tolerance` against dm_control's, for every sigmoid and kind of bounds."""

import math

import numpy as np
import pytest
import torch
from dm_control.utils import rewards as dm_control
from hypothesis import assume, given
from hypothesis import strategies as st
from trimtab.robots.plugins import UnknownName
from trimtab.robots.rewards import tolerance

SIGMOIDS = ("gaussian", "linear", "quadratic", "cosine", "long_tail", "reciprocal", "hyperbolic", "tanh_squared")

values = st.lists(st.floats(-1e3, 1e3) | st.sampled_from([-math.inf, math.inf]), min_size=1, max_size=8)
finite = st.floats(-100.0, 100.0)
bounds = st.one_of(
    st.tuples(finite, finite).map(lambda b: (min(b), max(b))),
    finite.map(lambda b: (b, b)),
    finite.map(lambda b: (b, math.inf)),
    finite.map(lambda b: (-math.inf, b)),
    st.just((0.0, 0.0)),
    st.just((-math.inf, math.inf)),
)
margins = st.just(0.0) | st.floats(1e-3, 1e3)


@given(x=values, bounds=bounds, margin=margins, value=st.floats(0.01, 0.99), sigmoid=st.sampled_from(SIGMOIDS))
def test_tolerance_is_dm_controls(x, bounds, margin, value, sigmoid):
    with np.errstate(all="ignore"):
        expected = dm_control.tolerance(np.array(x), bounds, margin, sigmoid, value)
    assume(not np.isnan(expected).any())  # theirs, of an infinite distance
    found = tolerance(np.array(x), bounds, margin, sigmoid, value)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@given(x=values, bounds=bounds, margin=st.floats(1e-3, 1e3), sigmoid=st.sampled_from(("linear", "quadratic", "cosine")))
def test_tolerance_is_dm_controls_where_it_reaches_zero(x, bounds, margin, sigmoid):
    with np.errstate(all="ignore"):
        expected = dm_control.tolerance(np.array(x), bounds, margin, sigmoid, 0.0)
    np.testing.assert_allclose(tolerance(np.array(x), bounds, margin, sigmoid, 0.0), expected, rtol=1e-12, atol=1e-12)


@given(x=values, bounds=bounds, margin=margins, value=st.floats(0.01, 0.99), sigmoid=st.sampled_from(SIGMOIDS))
def test_tolerance_is_the_same_in_torch(x, bounds, margin, value, sigmoid):
    expected = tolerance(np.array(x), bounds, margin, sigmoid, value)
    found = tolerance(torch.tensor(x, dtype=torch.float64), bounds, margin, sigmoid, value)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_the_value_at_the_margin_is_as_asked(sigmoid):
    x = np.array([-0.5, 1.0, 2.5, 4.0])
    np.testing.assert_allclose(tolerance(x, (1.0, 2.5), 1.5, sigmoid, 0.3), [0.3, 1.0, 1.0, 0.3], rtol=1e-12)


def test_torch_single_precision_stays():
    assert tolerance(torch.zeros(3), (0.0, 1.0)).dtype == torch.float32
    assert tolerance(torch.zeros(3), (0.0, 1.0), 0.5).dtype == torch.float32


@pytest.mark.parametrize("sigmoid", SIGMOIDS)
def test_the_derivative_is_finite_near_and_far(sigmoid):
    x = torch.tensor([-1e4, -3.0, 0.0, 0.5, 1.0, 3.0, 1e4], dtype=torch.float64, requires_grad=True)
    tolerance(x, (0.0, 1.0), 2.0, sigmoid).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_not_a_number_is_not_hidden():
    for sigmoid in SIGMOIDS:
        assert np.isnan(tolerance(np.array([math.nan]), (0.0, 1.0), 1.0, sigmoid)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bounds": (1.0, 0.0)}, "lower bound 1 is above"),
        ({"margin": -1.0}, "margin"),
        ({"margin": 1.0, "value_at_margin": 0.0}, "gaussian"),
        ({"margin": 1.0, "value_at_margin": 1.0, "sigmoid": "linear"}, "linear"),
    ],
)
def test_what_is_out_of_range_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tolerance(np.zeros(2), **arguments)


def test_an_unknown_sigmoid_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'gaussian'"):
        tolerance(np.zeros(2), margin=1.0, sigmoid="gausian")
