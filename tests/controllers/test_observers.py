import threading

import numpy as np
import pytest
from trimtab.controllers import run
from trimtab.controllers.observers import CAPACITY


class Log:
    """Writes down what it is told."""

    def __init__(self):
        self.calls = []

    def start(self, scene, task):
        self.calls.append(("start", scene, task))

    def step(self, state, u, plan, timing):
        self.calls.append(("step", state, u, plan, timing))

    def end(self, episode):
        self.calls.append(("end", episode))


class Blocking(Log):
    """Lets nothing past its method `where` until `gate` opens; `entered` says that it got there."""

    def __init__(self, gate, where):
        super().__init__()
        self.gate, self.where, self.entered = gate, where, threading.Event()

    def _at(self, where):
        if where == self.where:
            self.entered.set()
            self.gate.wait()

    def start(self, scene, task):
        self._at("start")
        super().start(scene, task)

    def step(self, *frame):
        self._at("step")
        super().step(*frame)

    def end(self, episode):
        self._at("end")
        super().end(episode)


class Raising(Log):
    def __init__(self, where):
        super().__init__()
        self.where = where

    def _at(self, where):
        if where == self.where:
            raise RuntimeError(f"no {where}")

    def start(self, *args):
        super().start(*args)
        self._at("start")

    def step(self, *args):
        super().step(*args)
        self._at("step")

    def end(self, *args):
        super().end(*args)
        self._at("end")


def test_observers_are_told_everything_in_order(block):
    log = Log()
    controller = block.Ahead(lambda n, s: np.full(8, 0.5), replan=2)
    e = run(block.Plant(), controller, task=block.task, observers=[log])
    kinds = [call[0] for call in log.calls]
    assert kinds == ["start", *["step"] * 16, "end"]
    assert log.calls[0] == ("start", None, block.task)
    assert log.calls[-1][1] is e
    for k, (_, state, u, plan, timing) in enumerate(log.calls[1:-1]):
        np.testing.assert_array_equal(state.y, e.y[k + 1])
        assert (state.time, u[0], plan.time) == (e.time[k + 1], 0.5, k // 2 * 2 * block.dt)
        assert (timing.step, timing.reward, timing.cost) == (k + 1, e.reward[k], e.cost[k])
        assert timing.plan_ms == e.plan_ms[k // 2]
        assert timing.plan_age == e.plan_age[k]
        assert (timing.fault, timing.deadline_misses, timing.missed_ticks, timing.lateness) == (None, 0, 0, 0.0)
    assert e.dropped_frames == {"Log": 0}
    assert e.notes == []


def test_timing_names_the_check_that_fired(block):
    log = Log()
    run(block.Plant(), block.Script(lambda s: np.nan), task=block.task, observers=[log])
    assert {call[-1].fault for call in log.calls[1:-1]} == {"nan"}


def test_a_blocked_observer_loses_the_oldest_steps_and_they_are_counted(block, release):
    # It holds step 0 while the others queue up; of the rest the queue keeps the newest.
    observer = Blocking(release, "step")
    extra = 37

    def hook(k, u):
        if k == 1:
            assert observer.entered.wait(30.0)
        if k == steps - 1:
            release.set()
            block.eventually(lambda: len(observer.calls) == CAPACITY + 2)  # start, step 0, and the queue

    steps = 1 + CAPACITY + extra + 1
    e = run(
        block.Plant(hook),
        block.Script(lambda s: 0.0),
        task=block.task,
        duration=steps * block.dt,
        observers=[observer],
    )
    assert e.dropped_frames == {"Blocking": extra}
    assert e.summary()["dropped_frames"] == extra
    seen = [call[-1].step for call in observer.calls if call[0] == "step"]
    assert seen == [1, *range(2 + extra, steps + 1)]
    assert observer.calls[-1] == ("end", e)
    assert len(e) == steps
    assert e.notes == []


@pytest.mark.parametrize("where", ["start", "step", "end"])
def test_an_observer_that_never_returns_is_left_behind(block, release, where):
    observer, log = Blocking(release, where), Log()
    observer.patience = 0.1
    hook = None if where != "step" else lambda k, u: k != 1 or observer.entered.wait(30.0)
    e = run(block.Plant(hook), block.Script(lambda s: 0.0), task=block.task, observers=[observer, log])
    assert (e.status, len(e)) == ("done", 16)
    assert e.dropped_frames == {"Blocking": {"start": 16, "step": 15, "end": 0}[where], "Log": 0}
    assert [call[0] for call in log.calls] == ["start", *["step"] * 16, "end"]
    assert len(e.notes) == 1
    assert "Blocking was still busy" in e.notes[0]


@pytest.mark.parametrize("where", ["start", "step", "end"])
def test_an_observer_that_raises_is_disabled(block, where):
    observer, log = Raising(where), Log()
    e = run(block.Plant(), block.Script(lambda s: 0.5), task=block.task, observers=[observer, log])
    assert (e.status, len(e)) == ("done", 16)
    assert e.notes == [f"observer Raising raised RuntimeError: no {where}; it was disabled"]
    assert [call[0] for call in observer.calls][-1] == where
    assert len(observer.calls) == {"start": 1, "step": 2, "end": 18}[where]
    assert e.dropped_frames["Log"] == 0
    assert len(log.calls) == 18


def test_observers_of_one_kind_are_told_apart(block):
    e = run(block.Plant(), block.Script(lambda s: 0.5), task=block.task, observers=[Log(), Raising("end"), Log()])
    assert list(e.dropped_frames) == ["Log", "Raising", "Log#2"]


def test_each_observer_has_a_scene_of_its_own(block):
    # Restoring a state writes into the scene's data, and observers do so from threads of their own.
    class Plant(block.Plant):
        def scene(self):
            return object()

    first, second = Log(), Log()
    run(Plant(), block.Script(lambda s: 0.5), task=block.task, observers=[first, second])
    assert first.calls[0][1] is not second.calls[0][1]


def test_a_run_that_can_not_be_scored_ends_there_and_is_kept(block):
    """A bug in a task's reward loses nothing, and no observer's thread stays behind."""

    class Broken(type(block.task)):
        def reward(self, y, u):
            if y[0] >= 0.0:
                raise ZeroDivisionError("no reward")

    task = Broken(**{name: getattr(block.task, name) for name in block.task.__dataclass_fields__})
    log = Log()
    episode = run(block.Plant(), block.Ahead(lambda n, s: np.zeros(80)), task=task, observers=[log], clock="wall")
    assert (episode.status, len(episode.u)) == ("failed", 0)
    assert "can not score the state" in episode.reason
    assert "ZeroDivisionError: no reward" in episode.reason
    assert [call[0] for call in log.calls] == ["start", "end"]
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name in ("planner", "observer Log")]
