"""What the swing-up tasks' terms speak of, against MuJoCo: the pendulum's energy, the acrobot's balance."""

import mujoco
import numpy as np
import pytest
from trimtab import robots
from trimtab.robots import acrobot


def test_the_pendulums_energy_term_measures_mujocos_energy():
    task = robots.load("pendulum-swingup")
    model = task.robot.model
    data = mujoco.MjData(model)

    def energy(qpos, qvel):
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        return data.energy.sum()

    top, bottom = energy(0.0, 0.0), energy(np.pi, 0.0)
    (term,) = (term for term in task.terms if term.name == "energy")
    rng = np.random.default_rng(0)
    for _ in range(10):
        qpos, qvel = rng.uniform(-np.pi, np.pi, 1), 4.0 * rng.standard_normal(1)
        y = task.robot.layout(np.concatenate([qpos, qvel]))
        found = term.norm(term.residual(y, np.zeros(1), 0.0))
        assert found == pytest.approx(abs(energy(qpos, qvel) - top) / ((top - bottom) / 2.0), rel=1e-10)


def test_the_acrobots_catch_term_tells_what_its_regulator_can_catch():
    """The regulator that belongs to the term's matrix balances MuJoCo's acrobot from well inside x'Sx <= 1."""
    model = acrobot.ROBOT.model
    matrix = acrobot._balance_cost(model)
    data, trial = mujoco.MjData(model), mujoco.MjData(model)
    everything = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, everything))
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.standard_normal(4)
        x *= 0.5 / np.sqrt(x @ matrix @ x)
        data.qpos[:], data.qvel[:], data.ctrl[:] = x[:2], x[2:], 0.0
        values = []
        for _ in range(300):
            # One step of value descent: the control that brings x'Sx down most, among those within the limits.
            trials = []
            mujoco.mj_getState(model, data, state, everything)
            for u in np.linspace(-1.0, 1.0, 21):
                mujoco.mj_setState(model, trial, state, everything)
                trial.ctrl[:] = u
                mujoco.mj_step(model, trial)
                z = np.concatenate([trial.qpos, trial.qvel])
                trials.append((z @ matrix @ z, u))
            data.ctrl[:] = min(trials)[1]
            mujoco.mj_step(model, data)
            values.append(min(trials)[0])
        assert max(values) < 1.0
        assert values[-1] < 0.5 * values[0]


def test_the_acrobots_whirl_is_the_kinetic_energy_that_an_inelastic_lock_of_the_elbow_takes():
    """Of MuJoCo's mass matrix: the arm locked keeps its angular momentum about the shoulder, p = (M q')_1."""
    task = robots.load("acrobot-swingup")
    model = task.robot.model
    data = mujoco.MjData(model)
    (term,) = (term for term in task.terms if term.name == "whirl")
    mass, product = np.zeros((2, 2)), np.zeros(2)
    potential = []
    for shoulder in (0.0, np.pi):
        data.qpos[:], data.qvel[:] = (shoulder, 0.0), 0.0
        mujoco.mj_forward(model, data)
        potential.append(data.energy[0])
    rng = np.random.default_rng(0)
    for _ in range(10):
        qpos, qvel = rng.uniform(-np.pi, np.pi, 2), 4.0 * rng.standard_normal(2)
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        for column, unit in zip(mass.T, np.eye(2)):
            mujoco.mj_mulM(model, data, product, unit)
            column[:] = product
        momentum = mass[0] @ qvel
        lost = 0.5 * qvel @ mass @ qvel - 0.5 * momentum**2 / mass[0, 0]
        y = task.robot.layout(np.concatenate([qpos, qvel]))
        found = term.norm(term.residual(y, np.zeros(1), 0.0))
        assert found == pytest.approx(lost / (potential[0] - potential[1]), rel=1e-9)


def test_the_acrobots_catch_term_ranks_near_upright_and_is_flat_far_from_it():
    task = robots.load("acrobot-swingup")
    matrix = acrobot._balance_cost(task.robot.model)
    (term,) = (term for term in task.terms if term.name == "catch")

    def effort(x):
        return float(term.norm(term.residual(task.robot.layout(x), np.zeros(1), 0.0)))

    rng = np.random.default_rng(0)
    for x in rng.standard_normal((10, 4)):
        x /= np.sqrt(x @ matrix @ x)
        assert effort(x) == pytest.approx(np.log(2.0), rel=1e-3)  # at x'Sx = 1
        rising = [effort(scale * x) for scale in (0.1, 0.3, 1.0, 3.0, 10.0)]
        assert np.all(np.diff(rising) > 0.0)
    far = [effort(x) for x in rng.uniform(-1.0, 1.0, (100, 4)) * (np.pi, np.pi, 6.0, 10.0)]
    assert max(far) <= np.log1p(acrobot.CAUGHT)
    assert np.median(far) > 0.99 * np.log1p(acrobot.CAUGHT)
