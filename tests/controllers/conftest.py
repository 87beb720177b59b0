"""A plant of which everything can be predicted: a unit mass pushed along a line, in steps of a binary fraction."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from trimtab.controllers import Plan
from trimtab.robots import Reading, Robot, Start, Task, Term
from trimtab.robots.task import quadratic
from trimtab.sim import State

DT = 0.125
ROBOT = Robot(
    name="block",
    build=None,
    readings=(Reading("position", 1), Reading("velocity", 1)),
    dt=DT,
    limits=np.array([[-1.0], [1.0]]),
)
TASK = Task(
    name="block-reach",
    robot=ROBOT,
    score=lambda y, u: 1.0 - y.position * y.position,
    terms=(Term("position", lambda y, u, t: y.position[..., None], norm=quadratic),),
    start=lambda seed: Start(np.zeros(1), np.zeros(1)),
    duration=2.0,
    goal=lambda y: y.position > 0.5,
)


def push(y, u):
    position, velocity = y
    return np.array([position + velocity * DT + 0.5 * u * DT**2, velocity + u * DT])


class Block:
    """The plant. `hook(k, u)` is called before step k, and may raise or take time."""

    dt = DT

    def __init__(self, hook=None, full=True):
        self.hook = hook
        self.full = full

    def reset(self, seed, state=None):
        self.k = 0
        self.y = np.zeros(2) if state is None else state.y.copy()
        return self._state()

    def step(self, u):
        if self.hook is not None:
            self.hook(self.k, u)
        self.k += 1
        self.y = push(self.y, float(u[0]))
        return self._state()

    def _state(self):
        return State(self.k * DT, self.y.copy(), self.y.copy() if self.full else None)

    def scene(self):
        return None

    def close(self):
        pass


class BlockDynamics:
    """Predicts steps of `stride` of the plant's."""

    def __init__(self, stride=1):
        self.stride, self.dt = stride, stride * DT

    def advance(self, state, controls):
        y = state.y
        for u in np.repeat(controls, self.stride, axis=0):
            y = push(y, float(u[0]))
        return State(state.time + len(controls) * self.dt, y, y)


class Script:
    """A plain controller: `rule(state)` is the control."""

    def __init__(self, rule):
        self.rule = rule
        self.seed = None

    def reset(self, seed):
        self.seed = seed

    def control(self, state):
        return np.atleast_1d(np.asarray(self.rule(state), dtype=float))


class Ahead:
    """A planning controller. `rule(n, state)` is the n-th plan's controls (H,); it may raise or block.

    Its controls last `stride` steps of the plant each, and `replan` counts these.
    """

    def __init__(self, rule, replan=1, stride=1):
        self.rule = rule
        self.planner = SimpleNamespace(horizon=8, replan=replan)
        self.dynamics = BlockDynamics(stride)
        self.reset(0)

    def reset(self, seed):
        self.latest = None
        self.origins = []

    def plan(self, state):
        n = len(self.origins)
        self.origins.append(state)
        controls = np.asarray(self.rule(n, state), dtype=float)[:, None]
        self.latest = plan = Plan(state.time, self.dynamics.dt, controls, cost=float(n))
        return plan

    def control(self, state):
        if self.latest is None or self.latest.step_at(state.time) >= self.planner.replan:
            self.plan(state)
        return self.latest.control(state.time)


class Clock:
    """A clock that stands still but for `sleep` and `pass_`."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += max(seconds, 1e-4)

    def pass_(self, seconds):
        self.time += seconds


def eventually(condition):
    """Waits for another thread to make `condition` true."""
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, "another thread did not do its part"
        time.sleep(1e-3)


@pytest.fixture(scope="session")
def block():
    """The plant's parts, by name."""
    return SimpleNamespace(
        dt=DT,
        robot=ROBOT,
        task=TASK,
        push=push,
        Plant=Block,
        Dynamics=BlockDynamics,
        Script=Script,
        Ahead=Ahead,
        Clock=Clock,
        eventually=eventually,
    )


@pytest.fixture
def release():
    """An event for threads to block on; set when the test is over, so that none stays behind."""
    event = threading.Event()
    yield event
    event.set()
