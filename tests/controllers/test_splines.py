import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trimtab.controllers import splines

KINDS = ["zero", "linear", "cubic"]
sizes = st.integers(1, 60).flatmap(lambda h: st.tuples(st.just(h), st.integers(1, h)))


@pytest.mark.parametrize("kind", KINDS)
@given(size=sizes)
def test_equal_knots_make_a_constant_control(kind, size):
    np.testing.assert_allclose(splines.basis(*size, kind).sum(1), 1.0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@given(size=sizes.filter(lambda s: s[1] > 1))
def test_linear_functions_are_interpolated_exactly(kind, size):
    horizon, knots = size
    line = 3.0 - 0.7 * splines.knot_steps(horizon, knots, kind)
    np.testing.assert_allclose(splines.basis(horizon, knots, kind) @ line, 3.0 - 0.7 * np.arange(horizon), atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_the_spline_passes_through_its_knots(kind):
    values = np.random.default_rng(0).normal(size=9)
    np.testing.assert_allclose((splines.basis(41, 9, kind) @ values)[::5], values, atol=1e-12)


def test_cubic_is_smoother_than_linear():
    values = np.sin(np.linspace(0.0, np.pi, 7))
    truth = np.sin(np.linspace(0.0, np.pi, 61))
    error = {kind: np.abs(splines.basis(61, 7, kind) @ values - truth).max() for kind in ("linear", "cubic")}
    assert error["cubic"] < 0.05 * error["linear"]


@given(size=sizes)
def test_zero_order_is_piecewise_constant_with_equal_pieces(size):
    horizon, knots = size
    values = splines.basis(horizon, knots, "zero") @ np.arange(knots)
    assert (np.diff(values) >= 0).all()
    lengths = np.bincount(values.astype(int), minlength=knots)
    assert set(lengths) <= {horizon // knots, -(-horizon // knots)}
    if horizon % knots == 0:
        middles = [np.flatnonzero(values == k).mean() for k in range(knots)]
        np.testing.assert_allclose(splines.knot_steps(horizon, knots, "zero"), middles)


@pytest.mark.parametrize("kind", KINDS)
def test_one_knot_is_a_constant(kind):
    np.testing.assert_array_equal(splines.basis(7, 1, kind), np.ones((7, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_knots_as_steps_are_the_controls_themselves(kind):
    np.testing.assert_allclose(splines.basis(8, 8, kind), np.eye(8), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_recovers_the_knots(kind):
    product = splines.projection(30, 7, kind) @ splines.basis(30, 7, kind)
    np.testing.assert_allclose(product, np.eye(7), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nu", [1, 3, 4, 5, 8])
def test_evaluation_is_the_basis_times_the_knots(kind, nu):
    knots = np.random.default_rng(0).normal(size=(5, 6, nu))
    out = np.empty((5, 13, nu))
    splines.evaluate(13, knots, kind, out)
    np.testing.assert_allclose(out, np.einsum("hk,nku->nhu", splines.basis(13, 6, kind), knots), atol=1e-12)


def test_shared_bases_can_not_be_written():
    with pytest.raises(ValueError, match="read-only"):
        splines.basis(10, 3, "linear")[0, 0] = 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0, "linear"), "knots is 0"),
        ((10, 11, "zero"), "knots is 11.*horizon of 10"),
        ((10, 3, "quintic"), "unknown spline 'quintic'; known: zero, linear, cubic"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        splines.basis(*arguments)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_coloured_noise_has_the_spectrum_asked_for(exponent):
    knots = 32
    noise = splines.colouring(knots, exponent) @ np.random.default_rng(1).standard_normal((knots, 20_000))
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(1)
    slope = np.polyfit(np.log(np.fft.rfftfreq(knots)[1:]), np.log(power[1:]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.03)
    np.testing.assert_allclose(noise.std(1), 1.0, rtol=0.03)


@given(knots=st.integers(1, 40), exponent=st.one_of(st.floats(0.0, 4.0), st.floats(0.0, 1e4)))
def test_coloured_noise_has_unit_variance(knots, exponent):
    matrix = splines.colouring(knots, exponent)
    np.testing.assert_allclose((matrix**2).sum(1), 1.0, atol=1e-9)


def test_white_noise_is_left_alone():
    np.testing.assert_allclose(splines.colouring(12, 0.0), np.eye(12), atol=1e-12)


def test_a_negative_colour_is_refused():
    with pytest.raises(ValueError, match=r"-1.0; it must be finite and at least 0"):
        splines.colouring(5, -1.0)
    with pytest.raises(ValueError, match=r"nan; it must be finite and at least 0"):
        splines.colouring(5, float("nan"))
