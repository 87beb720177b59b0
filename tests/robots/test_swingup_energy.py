"""The energy that the swing-up tasks' terms speak of, against MuJoCo's own."""

import mujoco
import numpy as np
import pytest
from trimtab import robots


@pytest.mark.parametrize("name", ["acrobot-swingup", "pendulum-swingup"])
def test_the_energy_term_measures_mujocos_energy(name):
    task = robots.load(name)
    model = task.robot.model
    data = mujoco.MjData(model)

    def energy(qpos, qvel):
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        return data.energy.sum()

    top, bottom = energy(np.zeros(model.nq), np.zeros(model.nv)), energy([np.pi] + [0] * (model.nq - 1), 0)
    unit = {"acrobot": top - bottom, "pendulum": (top - bottom) / 2}[task.robot.name]
    (term,) = (term for term in task.terms if term.name == "energy")
    rng = np.random.default_rng(0)
    for _ in range(10):
        qpos, qvel = rng.uniform(-np.pi, np.pi, model.nq), 4.0 * rng.standard_normal(model.nv)
        y = task.robot.layout(np.concatenate([qpos, qvel]))
        found = term.norm(term.residual(y, np.zeros(task.robot.nu), 0.0))
        assert found == pytest.approx(abs(energy(qpos, qvel) - top) / unit, rel=1e-10)
