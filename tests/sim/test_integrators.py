"""Steps in closed form: on the manifold, their derivatives, and what a sphere of quaternions does to them."""

import casadi as ca
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from trimtab.robots.symbolic import Symbolic
from trimtab.sim.integrators import ControlStep, difference, displacement, retract

INERTIA = ca.DM([0.3, 0.2, 0.1])


def tumbling(x, u, h):
    """A free body and a slide that push each other; nothing physical, everything coupled. Damping acts implicitly."""
    q, place, v, w, slide = x[3:7], x[:3], x[8:11], x[11:14], x[14]
    along = ca.vertcat(q[1] * q[3] + q[0] * q[2], q[2] * q[3] - q[0] * q[1], q[0] ** 2)
    force = u[0] * along - 0.3 * place + 0.2 * ca.sin(x[7])
    torque = ca.vertcat(u[1], 0.5 * slide, ca.cos(x[0])) - ca.cross(w, INERTIA * w)
    back = (-x[7] - 0.4 * slide + u[0]) / (1.0 + 0.4 * h)
    return ca.vertcat(v, w, slide, force, torque / INERTIA, back)


def model(integrator, slopes=None):
    return Symbolic(8, 7, 2, tumbling, 0.02, integrator, (3,), slopes=slopes)


def random_states(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 15))
    x[:, 3:7] /= np.linalg.norm(x[:, 3:7], axis=1)[:, None]
    return x, rng.standard_normal((n, 2))


def moved(s, x, d):
    x_, d_ = ca.SX.sym("x", s.nx), ca.SX.sym("d", s.tangent)
    return np.ravel(ca.Function("f", [x_, d_], [retract(s, x_, d_)])(x, d).full())


@pytest.mark.parametrize("size", [1e-12, 1e-3, 0.5, 2.0])
def test_retraction_turns_as_scipys_rotations_do(size):
    s = model("euler")
    (x, other), _ = random_states(2)
    d = size * other[:14] / np.linalg.norm(other[3:6])
    end = moved(s, x, d)
    turned = Rotation.from_quat(x[3:7], scalar_first=True) * Rotation.from_rotvec(d[3:6])
    np.testing.assert_allclose(
        Rotation.from_quat(end[3:7], scalar_first=True).as_matrix(), turned.as_matrix(), atol=3e-15
    )
    assert np.linalg.norm(end[3:7]) == pytest.approx(1.0, abs=3e-15)
    np.testing.assert_allclose(end[[0, 1, 2, 7]], x[[0, 1, 2, 7]] + d[[0, 1, 2, 6]], rtol=1e-15)


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-3, 2.0])
def test_differences_undo_retractions(size):
    s = model("euler")
    (x, other), _ = random_states(2)
    d = size * other[:14] / np.linalg.norm(other[3:6])
    end = moved(s, x, d)
    np.testing.assert_allclose(difference(s, end, x), d, atol=1e-14)
    a, b = ca.SX.sym("a", 15), ca.SX.sym("b", 15)
    traced = ca.Function("f", [a, b], [displacement(s, a, b)])
    np.testing.assert_allclose(np.ravel(traced(end, x).full()), d, atol=1e-14)
    end[3:7] *= -1.0  # the same attitude
    np.testing.assert_allclose(difference(s, end, x), d, atol=1e-14)
    np.testing.assert_allclose(np.ravel(traced(end, x).full()), d, atol=1e-14)


def test_differences_of_batches():
    s = model("euler")
    x, _ = random_states(6)
    found = difference(s, x.reshape(2, 3, 15), x[0])
    assert found.shape == (2, 3, 14)
    np.testing.assert_array_equal(found[1, 2], difference(s, x[5], x[0]))
    np.testing.assert_array_equal(found[0, 0], 0.0)


def central(s, step, x, u, h=1e-6):
    """The step's slopes by tangent vectors of x and by u, by central differences."""
    columns = []
    for e in np.eye(s.tangent):
        plus, minus = (np.ravel(step(moved(s, x, sign * h * e), u).full()) for sign in (1, -1))
        columns.append(difference(s, plus, minus) / (2 * h))
    for e in np.eye(s.nu):
        plus, minus = (np.ravel(step(x, u + sign * h * e).full()) for sign in (1, -1))
        columns.append(difference(s, plus, minus) / (2 * h))
    return np.stack(columns, 1)


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
@pytest.mark.parametrize("substeps", [1, 3])
def test_linear_model_is_the_steps_slope(integrator, substeps):
    s = model(integrator)
    step = ControlStep(s, 0.02 * substeps)
    for x, u in zip(*random_states(3)):
        a, b = step.linear(x, u)
        np.testing.assert_allclose(np.hstack((a.full(), b.full())), central(s, step.function, x, u), atol=2e-9)


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_a_models_own_slopes_are_used(integrator):
    def slopes(x, u, h):
        asked.append(h)
        a, b = ca.SX.sym("x", 15), ca.SX.sym("u", 2)
        lift = ca.SX(15, 14)
        for i, j in ((0, 0), (1, 1), (2, 2), (7, 6), *((8 + k, 7 + k) for k in range(7))):
            lift[i, j] = 1.0
        w, v = a[3], a[4:7]
        lift[3:7, 3:6] = 0.5 * ca.vertcat(-v.T, w * ca.SX.eye(3) + ca.skew(v))
        rate = tumbling(a, b, h)
        f = ca.Function("f", [a, b], [ca.mtimes(ca.jacobian(rate, a), lift), ca.jacobian(rate, b)])
        return f(x, u)

    asked = []
    (x,), (u,) = random_states(1)
    own, found = ControlStep(model(integrator, slopes), 0.02), ControlStep(model(integrator), 0.02)
    for one, other in zip(own.linear(x, u), found.linear(x, u)):
        np.testing.assert_allclose(one.full(), other.full(), atol=1e-14)
    assert asked == [0.02 if integrator == "euler" else 0.0]


@pytest.mark.parametrize("integrator", ["euler", "rk4"])
def test_curvature_is_the_linear_models_slope(integrator):
    """By central differences of gradients in a fixed chart about the step's end."""
    s = model(integrator)
    step = ControlStep(s, 0.02)
    (x,), (u,) = random_states(1)
    p = np.random.default_rng(1).standard_normal(14)
    end = np.ravel(step.function(x, u).full())
    size, h = 16, 1e-4

    def value(z):
        return p @ difference(s, np.ravel(step.function(moved(s, x, z[:14]), u + z[14:]).full()), end)

    expected = np.empty((size, size))
    eye = h * np.eye(size)
    for i in range(size):
        for j in range(i + 1):
            corners = [value(a * eye[i] + b * eye[j]) * a * b for a in (1, -1) for b in (1, -1)]
            expected[i, j] = expected[j, i] = sum(corners) / (4 * h * h)
    np.testing.assert_allclose(step.curved(x, u, p).full(), expected, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def test_implicit_damping_is_stable_where_explicit_is_not():
    """v' = -d v with h d = 5: the new velocity is v / (1 + h d)."""
    s = Symbolic(1, 1, 1, lambda x, u, h: ca.vertcat(x[1], -500.0 * x[1] / (1.0 + h * 500.0)), 0.01)
    end = np.ravel(ControlStep(s, 0.01).function([0.0, 1.0], [0.0]).full())
    np.testing.assert_allclose(end, [0.01 / 6.0, 1.0 / 6.0], rtol=1e-14)


def test_runge_kutta_is_of_fourth_order():
    """x' = u x, whose end is known: halving the step divides the error by 16."""
    errors = []
    for timestep in (0.1, 0.05):
        s = Symbolic(1, 0, 1, lambda x, u, h: u * x, timestep, "rk4")
        errors.append(abs(float(ControlStep(s, 1.0).function([1.0], [-1.0])) - np.exp(-1.0)))
    assert 14.0 < errors[0] / errors[1] < 18.0


def test_a_period_of_broken_steps_is_refused():
    with pytest.raises(ValueError, match=r"a period of 0.03 s is not a whole number of steps of 0.02 s"):
        ControlStep(model("euler"), 0.03)
