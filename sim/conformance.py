# ruff: noqa: D102 - a test's name says what it tests
"""What a simulator or dynamics plugin must do, as tests to inherit. Needs pytest.

from trimtab.sim.conformance import DynamicsConformance, SimulatorConformance

class TestPuckSimulator(SimulatorConformance):
    simulator, task = "puck", "puck-reach"

class TestPuckDynamics(DynamicsConformance):
    simulator, dynamics, task = "puck", "puck", "puck-reach"
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from .. import robots
from ..robots.task import Task
from . import dynamics as make_dynamics
from . import make as make_simulator
from .interface import Dynamics, Scene, Simulator, State


class _Conformance:
    """Names of what is tested, and how to make it; override the methods for what is not a plugin.

    Attributes:
        task: a task's name.
        simulator: the plugin's name.
        steps: length of the runs [control steps]; take it short enough for random controls to do no harm.
    """

    task: str
    simulator: str
    steps = 12

    def make_task(self) -> Task:
        """The task."""
        return robots.load(self.task)

    def make_simulator(self) -> Simulator:
        """A fresh plant of the task."""
        return make_simulator(self.simulator, self.make_task())

    def controls(self, *shape: int, seed: int = 0) -> np.ndarray:
        """Random controls (*shape, nu) within `Robot.bounded_limits`."""
        low, high = self.make_task().robot.bounded_limits
        return np.random.default_rng(seed).uniform(low, high, (*shape, len(low)))

    @contextmanager
    def plant(self) -> Iterator[Simulator]:
        """A fresh plant, closed at the end."""
        simulator = self.make_simulator()
        try:
            yield simulator
        finally:
            simulator.close()

    def run(self, simulator: Simulator, start: State, controls: np.ndarray) -> list[State]:
        """The states from `start` on, controls (k, nu) applied."""
        return [start, *(simulator.step(u) for u in controls)]


class SimulatorConformance(_Conformance):
    """Tests of a simulator plugin.

    Attributes:
        random_start: whether episodes of different seeds begin differently.
        restorable: whether states can be restored; False for a plant that can not, as a real robot.
    """

    random_start = True
    restorable = True

    def test_is_a_simulator_with_the_tasks_period(self) -> None:
        with self.plant() as plant:
            assert isinstance(plant, Simulator)
            assert plant.dt == pytest.approx(self.make_task().robot.dt, rel=1e-12)

    def test_readings_follow_the_layout(self) -> None:
        task, controls = self.make_task(), self.controls(self.steps)
        with self.plant() as plant:
            for state in self.run(plant, plant.reset(0), controls):
                assert state.y.shape == (task.robot.layout.size,)
                assert state.y.dtype == np.float64
                assert np.isfinite(state.y).all()
            assert np.isfinite(task.reward(state.y, controls[-1]))
            assert (state.x is not None) == self.restorable, "states have an x exactly if they can be restored"

    def test_same_seed_same_numbers(self) -> None:
        controls = self.controls(self.steps)
        with self.plant() as one, self.plant() as other:
            _assert_same(self.run(one, one.reset(3), controls), self.run(other, other.reset(3), controls))

    def test_other_seed_other_start(self) -> None:
        if not self.random_start:
            pytest.skip("this task always begins at the same state")
        with self.plant() as plant:
            starts = [plant.reset(seed).y for seed in range(3)]
        assert not np.array_equal(starts[0], starts[1]) or not np.array_equal(starts[0], starts[2])

    def test_each_step_advances_by_dt(self) -> None:
        with self.plant() as plant:
            times = [state.time for state in self.run(plant, plant.reset(0), self.controls(self.steps))]
            np.testing.assert_allclose(times, plant.dt * np.arange(self.steps + 1), rtol=0, atol=1e-9)

    def test_controls_matter(self) -> None:
        controls = self.controls(2, self.steps)
        with self.plant() as plant:
            one, other = (self.run(plant, plant.reset(0), u)[-1].y for u in controls)
        assert not np.array_equal(one, other)

    def test_states_are_fresh(self) -> None:
        controls = self.controls(self.steps)
        with self.plant() as plant:
            states = self.run(plant, plant.reset(0), controls)
            arrays = [a for state in states for a in (state.y, state.x) if a is not None]
            for i, a in enumerate(arrays):
                assert not any(np.shares_memory(a, b) for b in arrays[:i]), "two states share memory"
        with self.plant() as plant:
            tampered = plant.reset(0)
            for u, expected in zip(controls, states[1:], strict=True):
                for array in (tampered.y, tampered.x):
                    if array is not None:
                        array[:] = 77
                tampered = plant.step(u)
                np.testing.assert_array_equal(tampered.y, expected.y, "writing to a returned array moves the plant")

    def test_control_is_only_read(self) -> None:
        control = self.controls(1)[0]
        before = control.copy()
        with self.plant() as plant:
            plant.reset(0)
            after = plant.step(control)
            np.testing.assert_array_equal(control, before)
            control[:] = 0
            plant.reset(0)
            np.testing.assert_array_equal(plant.step(before).y, after.y)

    def test_restore_is_exact(self) -> None:
        if not self.restorable:
            pytest.skip("this plant's states can not be restored")
        controls = self.controls(2 * self.steps)
        with self.plant() as plant, self.plant() as fresh:
            middle = self.run(plant, plant.reset(1), controls[: self.steps])[-1]
            expected = self.run(plant, middle, controls[self.steps :])
            for simulator in (plant, fresh):
                for seed in (1, 2):  # which must not matter
                    restored = simulator.reset(seed, middle)
                    _assert_same(self.run(simulator, restored, controls[self.steps :]), expected)

    def test_restore_takes_a_full_state(self) -> None:
        with self.plant() as plant:
            start = plant.reset(0)
            with pytest.raises(ValueError):  # noqa: PT011 - plugins word their own errors
                plant.reset(0, replace(start, x=None))

    def test_bad_controls_are_refused(self) -> None:
        good = self.controls(self.steps)
        bad = [np.append(good[0], 0.0), good[0][:-1], good[:1], np.full_like(good[0], np.nan), good[0] + np.inf]
        with self.plant() as plant:
            expected = self.run(plant, plant.reset(0), good)
            states = [plant.reset(0)]
            for u in good:
                for wrong in bad:
                    with pytest.raises(ValueError):  # noqa: PT011 - plugins word their own errors
                        plant.step(wrong)
                states.append(plant.step(u))
            _assert_same(states, expected)

    def test_reset_begins_anew(self) -> None:
        controls = self.controls(self.steps)
        with self.plant() as plant:
            first = self.run(plant, plant.reset(5), controls)
            plant.reset(6)
            plant.step(controls[0])
            _assert_same(self.run(plant, plant.reset(5), controls), first)

    def test_scene_shows_states(self) -> None:
        with self.plant() as plant:
            scene = plant.scene()
            assert scene is None or isinstance(scene, Scene)
            states = self.run(plant, plant.reset(0), self.controls(self.steps))
            if scene is not None:
                scene.restore(states[0].x)
                poses = scene.data.xpos.copy(), scene.data.xquat.copy()
                scene.restore(states[-1].x)
                moved = not np.array_equal(poses[0], scene.data.xpos)
                assert moved or not np.array_equal(poses[1], scene.data.xquat)
                _assert_same([plant.step(u) for u in self.controls(1)], self._continued(states[-1]))

    def _continued(self, state: State) -> list[State]:
        with self.plant() as plant:
            plant.reset(0, state)
            return [plant.step(u) for u in self.controls(1)]

    def test_closes_twice(self) -> None:
        plant = self.make_simulator()
        plant.reset(0)
        plant.close()
        plant.close()


class DynamicsConformance(_Conformance):
    """Tests of a dynamics plugin.

    Attributes:
        dynamics: the plugin's name.
        members: E, the number of ensemble members or particles.
        stochastic: whether the prediction draws from its rng.
        tolerance: largest deviation of the readings from the plant's, or None for a model that is not the plant's.
        needs_x: whether a prediction needs the state's `x`.
    """

    dynamics: str
    members = 1
    stochastic = False
    tolerance: float | None = 1e-9
    needs_x = True

    def make_dynamics(self) -> Dynamics:
        """Fresh dynamics of the task."""
        return make_dynamics(self.dynamics, self.make_task())

    @contextmanager
    def model(self) -> Iterator[tuple[Dynamics, State]]:
        """Fresh dynamics, closed at the end, and a state of the plant to predict from."""
        with self.plant() as plant:
            state = self.run(plant, plant.reset(1), self.controls(3, seed=9))[-1]
        dynamics = self.make_dynamics()
        try:
            yield dynamics, state
        finally:
            dynamics.close()

    def test_shapes(self) -> None:
        with self.model() as (dynamics, state):
            assert dynamics.dt == pytest.approx(self.make_task().robot.dt, rel=1e-12)
            for n, horizon in ((1, 1), (3, self.steps), (5, 2)):
                rollout = dynamics.rollout(state, self.controls(n, horizon), np.random.default_rng(0))
                assert rollout.y.shape == (self.members, n, horizon + 1, state.y.size)
                assert rollout.valid.shape == (self.members, n)
                assert rollout.valid.all()
                assert np.isfinite(rollout.y).all()

    def test_begins_at_the_state(self) -> None:
        with self.model() as (dynamics, state):
            y = dynamics.rollout(state, self.controls(3, 2), np.random.default_rng(0)).y
            np.testing.assert_array_equal(y[:, :, 0], np.broadcast_to(state.y, y[:, :, 0].shape))

    def test_same_rng_same_numbers(self) -> None:
        controls = self.controls(3, self.steps)
        with self.model() as (dynamics, state):
            one = dynamics.rollout(state, controls, np.random.default_rng(4)).y.copy()
            dynamics.rollout(state, controls[::-1].copy(), np.random.default_rng(5))
            np.testing.assert_array_equal(one, dynamics.rollout(state, controls, np.random.default_rng(4)).y)

    def test_candidates_do_not_touch_each_other(self) -> None:
        if self.stochastic:
            pytest.skip("the noise of a batch is not that of its candidates alone")
        controls = self.controls(5, self.steps)
        with self.model() as (dynamics, state):
            batch = dynamics.rollout(state, controls, np.random.default_rng(0)).y.copy()
            for i, candidate in enumerate(controls):
                alone = dynamics.rollout(state, candidate[None], np.random.default_rng(0)).y
                np.testing.assert_allclose(alone[:, 0], batch[:, i], rtol=1e-9, atol=1e-9)

    def test_advance_is_the_rollouts_end(self) -> None:
        if self.stochastic or self.members > 1:
            pytest.skip("a random prediction has no one end")
        controls = self.controls(self.steps)
        with self.model() as (dynamics, state):
            y = dynamics.rollout(state, controls[None], np.random.default_rng(0)).y[0, 0].copy()
            for k in (1, self.steps):
                end = dynamics.advance(state, controls[:k])
                np.testing.assert_allclose(end.y, y[k], rtol=1e-9, atol=1e-9)
                assert end.time == pytest.approx(state.time + k * dynamics.dt, abs=1e-9)

    def test_predicts_from_a_predicted_state(self) -> None:
        if self.stochastic or self.members > 1:
            pytest.skip("a random prediction has no one end")
        controls = self.controls(self.steps)
        with self.model() as (dynamics, state):
            y = dynamics.rollout(state, controls[None], np.random.default_rng(0)).y[0, 0].copy()
            middle = dynamics.advance(state, controls[:2])
            rest = dynamics.rollout(middle, controls[None, 2:], np.random.default_rng(0)).y[0, 0]
            np.testing.assert_allclose(rest, y[2:], rtol=1e-9, atol=1e-9)

    def test_predicts_the_plant(self) -> None:
        if self.tolerance is None:
            pytest.skip("this is not the plant's model")
        controls = self.controls(self.steps)
        with self.model() as (dynamics, state), self.plant() as plant:
            states = self.run(plant, plant.reset(0, state), controls)
            y = dynamics.rollout(state, controls[None], np.random.default_rng(0)).y
            for member in y[:, 0]:
                np.testing.assert_allclose(member, [s.y for s in states], rtol=0, atol=self.tolerance)

    def test_arguments_are_only_read(self) -> None:
        controls = self.controls(2, self.steps)
        with self.model() as (dynamics, state):
            given = [controls, state.y, *([] if state.x is None else [state.x])]
            before = [a.copy() for a in given]
            dynamics.rollout(state, controls, np.random.default_rng(0))
            dynamics.advance(state, controls[0])
            for a, b in zip(given, before, strict=True):
                np.testing.assert_array_equal(a, b)

    def test_bad_candidates_are_refused(self) -> None:
        good = self.controls(2, self.steps)
        bad = [good[0], np.concatenate([good, good], -1), good[:0], good[:, :0], good[None]]
        with self.model() as (dynamics, state):
            for wrong in bad:
                with pytest.raises(ValueError):  # noqa: PT011 - plugins word their own errors
                    dynamics.rollout(state, wrong, np.random.default_rng(0))

    def test_takes_a_full_state(self) -> None:
        if not self.needs_x:
            pytest.skip("readings are enough for this model")
        controls = self.controls(1, 2)
        with self.model() as (dynamics, state):
            with pytest.raises(ValueError):  # noqa: PT011 - plugins word their own errors
                dynamics.rollout(replace(state, x=None), controls, np.random.default_rng(0))
            with pytest.raises(ValueError):  # noqa: PT011 - plugins word their own errors
                dynamics.advance(replace(state, x=None), controls[0])

    def test_closes_twice(self) -> None:
        dynamics = self.make_dynamics()
        dynamics.close()
        dynamics.close()


def _assert_same(states: list[State], expected: list[State]) -> None:
    """Times, readings and restored states are the same to the last bit."""
    assert len(states) == len(expected)
    for one, other in zip(states, expected, strict=True):
        assert one.time == pytest.approx(other.time, abs=1e-9)
        np.testing.assert_array_equal(one.y, other.y)
