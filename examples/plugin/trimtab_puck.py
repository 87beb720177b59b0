"""A puck of 1 kg on a table: p'' = u - c p', moved by semi-implicit Euler steps."""

import numpy as np
from trimtab.robots import Reading, Robot, Start, Task, Term
from trimtab.robots.rewards import tolerance
from trimtab.sim import Rollout, State
from trimtab.sim.interface import check_candidates, check_control, full_state

FRICTION = 0.5  # [N s/m]

ROBOT = Robot(
    name="puck",
    build=None,  # no MuJoCo model
    readings=(Reading("position", 2), Reading("velocity", 2), Reading("target", 2)),  # [m, m/s, m]
    dt=0.05,
    limits=np.array([[-1.0, -1.0], [1.0, 1.0]]),  # [N]
)


def move(x, u):
    """The state (..., 6) = (position, velocity, target), one control period after `x` under `u` (..., 2)."""
    velocity = x[..., 2:4] + ROBOT.dt * (u - FRICTION * x[..., 2:4])
    return np.concatenate([x[..., :2] + ROBOT.dt * velocity, velocity, x[..., 4:]], -1)


class PuckSimulator:
    """The plant. The readings are the state."""

    def __init__(self, task):
        self.task, self.dt = task, ROBOT.dt

    def reset(self, seed, state=None):
        if state is None:
            start = self.task.start(seed)
            state = State(0.0, None, np.concatenate([start.qpos, start.qvel, *start.parameters]))
        self.time, self.x = state.time, full_state(state).copy()
        return State(self.time, self.x.copy(), self.x.copy())

    def step(self, u):
        self.time, self.x = self.time + self.dt, move(self.x, check_control(u, 2))
        return State(self.time, self.x.copy(), self.x.copy())

    def scene(self):
        return None

    def close(self):
        pass


class PuckDynamics:
    """The model: all candidates at once."""

    def __init__(self, task):
        self.dt = ROBOT.dt

    def rollout(self, state, controls, rng=None):
        controls = check_candidates(controls, 2)
        y = np.empty((1, len(controls), controls.shape[1] + 1, 6))
        y[:, :, 0] = full_state(state)
        for k in range(controls.shape[1]):
            y[0, :, k + 1] = move(y[0, :, k], controls[:, k])
        return Rollout(y, np.ones(y.shape[:2], bool))

    def advance(self, state, controls):
        x = self.rollout(state, np.asarray(controls)[None]).y[0, 0, -1]
        return State(state.time + self.dt * len(controls), x.copy(), x.copy())

    def close(self):
        pass


def _start(seed):
    rng = np.random.default_rng(seed)
    return Start(rng.uniform(-1, 1, 2), np.zeros(2), (rng.uniform(-1, 1, 2),))


def reach():
    """Be at the target, which is drawn anew in each episode, within 5 cm."""
    return Task(
        name="puck-reach",
        robot=ROBOT,
        score=lambda y, u: tolerance(((y.position - y.target) ** 2).sum(-1) ** 0.5, (0.0, 0.05), margin=1.0),
        terms=(
            Term("distance", lambda y, u, t: (y.position - y.target) ** 2),
            Term("speed", lambda y, u, t: y.velocity**2, weight=0.1),
        ),
        start=_start,
        duration=5.0,
    )


TASKS = {"reach": reach}
