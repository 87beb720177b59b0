"""What robots compute from joint angles, where others have a sensor, against MuJoCo's own kinematics."""

import mujoco
import numpy as np
import pytest
from trimtab import robots
from trimtab.sim.compiled import Compiled

PLACES = {
    "reacher-easy": lambda data: data.geom("finger").xpos,
    "reacher-hard": lambda data: data.geom("finger").xpos,
    "acrobot-swingup": lambda data: data.site("tip").xpos,
    "cheetah-run": lambda data: data.body("torso").xpos,
    "pendulum-swingup": lambda data: data.geom("mass").xpos,
    "cartpole-swingup": lambda data: data.body("pole_1").xpos + data.body("pole_1").xmat.reshape(3, 3)[:, 2],
    "ball_in_cup-catch": lambda data: data.body("ball").xpos,
    "point_mass-easy": lambda data: data.body("pointmass").xpos,
}


def random_states(compiled, n=20):
    rng = np.random.default_rng(0)
    for _ in range(n):
        mujoco.mj_resetData(compiled.model, compiled.data)
        for value in compiled.parameters:
            value[:] = rng.standard_normal(value.shape)
        compiled.data.qpos[:] = 3.0 * rng.standard_normal(compiled.model.nq)
        compiled.data.qvel[:] = rng.standard_normal(compiled.model.nv)
        mujoco.mj_forward(compiled.model, compiled.data)
        yield compiled.data


@pytest.mark.parametrize("name", PLACES)
def test_the_place_traced_is_where_mujoco_has_it(name):
    task = robots.load(name)
    compiled = Compiled(task.robot)
    for data in random_states(compiled):
        traced = task.trace(task.robot.layout(compiled.readings()))
        np.testing.assert_allclose(traced, PLACES[name](data), rtol=0, atol=1e-12)


def test_reachers_distance_is_between_mujocos_finger_and_target():
    task = robots.load("reacher-easy")
    compiled = Compiled(task.robot)
    (term,) = (term for term in task.terms if term.name == "distance")
    for data in random_states(compiled):
        way = data.geom("finger").xpos - data.geom("target").xpos
        residual = term.residual(task.robot.layout(compiled.readings()), np.zeros(2), 0.0)
        np.testing.assert_allclose(residual, [np.hypot(way[0], way[1])], rtol=0, atol=1e-12)
