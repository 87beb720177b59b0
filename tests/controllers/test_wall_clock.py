import gc
import os
import subprocess
import sys
import threading
import time as clocks
from pathlib import Path

import numpy as np
import pytest
from trimtab.controllers import Plan, Safety, Wall, run
from trimtab.controllers.pilot import PlanLog, Schedule, Threaded, _Entry
from trimtab.controllers.realtime import Ticker, undisturbed

# Ticks --------------------------------------------------------------------------------------------------------------


def ticks(block, work):
    """When each tick came, and how many were missed, if the work after tick k takes work[k] periods."""
    clock = block.Clock()
    clock.pass_(1000.0)  # clocks do not start at 0
    ticker = Ticker(1.0, Wall(clock.now, clock.sleep))
    times = []
    for periods in work:
        ticker.wait()
        times.append(clock.time - 1000.0)
        clock.pass_(periods)
    return np.array(times), ticker.missed


def test_ticks_come_once_a_period(block):
    times, missed = ticks(block, [0.0, 0.3, 0.9, 0.0, 0.999])
    np.testing.assert_allclose(times, [0, 1, 2, 3, 4], atol=2e-3)
    assert missed == 0


@pytest.mark.parametrize(("late", "following"), [(1.2, 4), (1.9, 4), (3.5, 6), (7.25, 10)])
def test_what_is_late_skips_ticks_and_keeps_phase(block, late, following):
    # Tick 2 takes `late` periods: the next one is at the next whole period, and no tick is made up for.
    times, missed = ticks(block, [0.0, 0.5, late, 0.1, 0.1])
    np.testing.assert_allclose(times, [0, 1, 2, following, following + 1], atol=2e-3)
    assert missed == following - 3


def test_waking_up_late_is_served_at_once_and_then_keeps_phase(block):
    clock = block.Clock()
    naps = iter([0.0, 2.3, 0.0, 0.0])
    ticker = Ticker(1.0, Wall(clock.now, lambda s: (clock.sleep(s), clock.pass_(next(naps, 0.0) if s > 0 else 0.0))))
    lateness, times = [], []
    for _ in range(4):
        lateness.append(ticker.wait())
        times.append(clock.time)
    np.testing.assert_allclose(times, [0, 1, 4.3, 5], atol=2e-3)
    np.testing.assert_allclose(lateness, [0, 0, 2.3, 0], atol=2e-3)
    assert ticker.missed == 2


def test_many_ticks_do_not_drift(block):
    clock = block.Clock()
    ticker = Ticker(0.001, Wall(clock.now, clock.sleep))
    for _ in range(5001):
        ticker.wait()
    assert clock.time == pytest.approx(5.0, abs=2e-4)
    assert ticker.missed == 0


def test_setting_the_time_of_day_changes_nothing():
    assert Wall().now is clocks.perf_counter
    info = clocks.get_clock_info("perf_counter")
    assert info.monotonic
    assert not info.adjustable


# The loop under a clock that the test drives ------------------------------------------------------------------------


def test_a_stalled_plant_misses_ticks_but_not_steps(block):
    # Step 3 takes 3.5 periods. The plant still moves by one dt a step, and the run takes the skipped time longer.
    clock, served = block.Clock(), []

    def hook(k, u):
        served.append(clock.time / block.dt)
        clock.pass_(3.5 * block.dt if k == 3 else 0.25 * block.dt)

    wall = Wall(clock.now, clock.sleep)
    e = run(block.Plant(hook), block.Script(lambda s: 0.5), task=block.task, duration=1.0, clock=wall)
    np.testing.assert_allclose(served, [0, 1, 2, 3, 7, 8, 9, 10], atol=0.01)
    assert (e.status, len(e), e.missed_ticks, e.clock) == ("done", 8, 3, "wall")
    np.testing.assert_array_equal(e.time, np.arange(9) * block.dt)
    np.testing.assert_array_equal(e.y[:, 1], e.time / 2)


def test_a_plain_controller_late_by_a_period_misses_its_deadline(block):
    clock = block.Clock()

    def rule(state):
        clock.pass_({0.25: 1.25, 0.5: 0.75}.get(state.time, 0.1) * block.dt)
        return 0.5

    e = run(block.Plant(), block.Script(rule), task=block.task, duration=1.0, clock=Wall(clock.now, clock.sleep))
    assert (e.deadline_misses, e.missed_ticks, len(e), e.status) == (1, 1, 8, "done")


@pytest.mark.parametrize("grace", [0.0, 0.5])
def test_a_plain_controller_that_raises_leaves_the_robot_to_its_fallback(block, grace):
    clock = block.Clock()

    def rule(state):
        if state.time >= 0.5:
            raise OverflowError("no more")
        return 0.5

    safety = Safety(fallback="zero", grace=grace)
    wall = Wall(clock.now, clock.sleep)
    e = run(block.Plant(), block.Script(rule), task=block.task, clock=wall, safety=safety)
    assert e.status == "failed"
    assert "OverflowError: no more, at 0.5 s" in e.reason
    k = round(grace / block.dt)
    assert e.u[:, 0].tolist() == [0.5] * 4 + [0.0] * k
    assert e.fallbacks == k
    assert [(event.kind, event.count) for event in e.events] == ([("error", k)] if k else [("error", 1)])


def test_a_planner_that_raises_during_the_last_step_is_noted(block, release):
    clock = block.Clock()

    entered = threading.Event()

    def rule(n, state):
        if n == 2:
            entered.set()
            assert release.wait(30.0)
            raise OverflowError("no more")
        return np.zeros(20)

    def hook(k, u):
        # Plans 0 and 1 come before the clock starts; plan 2 fails after the last decision.
        if k == 8:
            assert entered.wait(30.0)
        if k == 15:
            release.set()

    wall = Wall(clock.now, clock.sleep)
    e = run(block.Plant(hook), block.Ahead(rule), task=block.task, clock=wall)
    assert (e.status, len(e)) == ("done", 16)
    assert any("OverflowError: no more" in note for note in e.notes)
    assert any("Traceback" in note for note in e.notes)


def test_the_fallback_acts_no_longer_than_the_run(block):
    def rule(state):
        if state.time >= 0.5:
            raise OverflowError("no more")
        return 0.5

    clock = block.Clock()
    wall = Wall(clock.now, clock.sleep)
    e = run(block.Plant(), block.Script(rule), task=block.task, duration=1.0, clock=wall, safety=Safety(grace=99.0))
    assert (e.status, len(e), e.fallbacks) == ("failed", 8, 4)


# Planning in a thread -----------------------------------------------------------------------------------------------


class Cockpit:
    """A pilot whose plannings begin and end when the test says so.

    The n-th planning (0 and 1 precede the start) reports that it began, and ends when it is let go.
    """

    def __init__(self, block, horizon=8, replan=1, compensate=True, rule=None, stride=1, **safety):
        self.block = block
        self.clock = block.Clock()
        self.began, self.go = threading.Semaphore(0), threading.Semaphore(2)
        self.state = block.Plant().reset(0)
        self.controller = block.Ahead(self._rule, replan, stride)
        self.horizon, self.rule = horizon, rule
        limits = block.robot.control_limits
        self.log = PlanLog(100)
        safety = Safety(**{"hang": 1e9} | safety)
        self.pilot = Threaded(self.controller, block.dt, limits, self.log, safety, compensate, self.clock.now)
        assert self.pilot.begin(self.state) is None
        self.began.acquire()
        self.began.acquire()
        self.plant = block.Plant()
        self.plant.reset(0)

    def _rule(self, n, state):
        self.began.release()
        assert self.go.acquire(timeout=30.0)
        if self.rule is not None:
            return self.rule(n, state)
        return 0.1 * n + 0.01 * np.arange(self.horizon)

    def step(self):
        """One period of the loop."""
        decision = self.pilot.decide(self.state)
        self.state = self.plant.step(decision.u if decision.u is not None else np.zeros(1))
        return decision

    def tick(self):
        self.clock.pass_(self.block.dt)

    def await_planning(self):
        assert self.began.acquire(timeout=30.0)

    def finish_planning(self):
        count = self.log.count
        self.go.release()
        self.block.eventually(lambda: self.log.count > count or self.pilot._fault)
        assert self.pilot._fault is None, self.pilot._fault.trace

    def end(self):
        self.go.release(100)
        self.pilot.end()
        self.pilot._thread.join(30.0)
        assert not self.pilot._thread.is_alive()


@pytest.fixture
def cockpit(block):
    made = []

    def make(**arguments):
        made.append(Cockpit(block, **arguments))
        return made[-1]

    yield make
    for each in made:
        each.end()


def test_plans_are_made_from_the_newest_state_and_followed_by_time(block, cockpit):
    c = cockpit(compensate=False)
    assert c.log.count == 1  # the first of the two plannings before the start is for compiling and is not counted
    d = c.step()  # step 0: by plan 1, made at the start
    assert (d.u[0], d.plan.time, d.age) == (0.1, 0.0, 0.0)
    c.tick()
    assert c.step().u[0] == pytest.approx(0.11)  # its second control
    c.await_planning()  # plan 2, from the state at step 1
    for k in (2, 3):
        c.tick()
        d = c.step()
        assert d.u[0] == pytest.approx(0.1 + 0.01 * k)
        assert d.age == k * block.dt
    assert c.controller.origins[-1].time == block.dt
    c.finish_planning()
    c.await_planning()  # plan 3 begins at once, from the newest state, that of step 3
    assert c.controller.origins[-1].time == 3 * block.dt
    c.tick()
    d = c.step()  # step 4: plan 2 is followed from its fourth control on
    assert d.u[0] == pytest.approx(0.2 + 0.03)
    assert (d.plan.time, d.age) == (block.dt, 3 * block.dt)
    c.finish_planning()
    assert c.pilot.deadline_misses == 1  # plan 2 took two periods, plan 3 one
    np.testing.assert_allclose(c.log.arrays()[0], [0.0, 2e3 * block.dt, 1e3 * block.dt])


def test_plans_wait_for_replan_steps(block, cockpit):
    c = cockpit(replan=3, compensate=False)
    for _ in range(3):
        c.step()
        c.tick()
    assert len(c.controller.origins) == 2
    c.step()
    c.await_planning()
    assert c.controller.origins[-1].time == 3 * block.dt
    c.clock.pass_(2.9 * block.dt)
    c.finish_planning()
    assert c.pilot.deadline_misses == 0
    c.tick()
    c.step()
    c.tick()
    c.step()
    c.clock.pass_(0.5 * block.dt)
    c.step()  # step 6 of the plant
    c.await_planning()
    assert c.controller.origins[-1].time == 6 * block.dt
    c.clock.pass_(3.1 * block.dt)
    c.finish_planning()
    assert c.pilot.deadline_misses == 1


def test_states_are_predicted_by_the_median_planning_time(block, cockpit):
    # Plannings take 1.6 periods. Once the median says so, each is made for the state two steps ahead, exactly.
    c = cockpit(replan=2, rule=lambda n, state: np.clip(0.4 - state.y[0] + 0.1 * n, -1, 1) * np.ones(8))
    states, leads = [c.state], []

    def step():
        c.clock.time = (len(states) - 1) * block.dt
        c.step()
        states.append(c.state)

    step()
    step()
    for _ in range(5):
        step()
        c.await_planning()
        leads.append(round(c.controller.origins[-1].time / block.dt) - (len(states) - 2))
        step()
        c.clock.pass_(0.6 * block.dt)
        c.finish_planning()
    step()
    # Medians of [0], [0, 1.6], [0, 1.6, 1.6], ...: no lead at first, then 0.8 and 1.6 periods, rounded up.
    assert leads == [0, 1, 2, 2, 2]
    assert len(np.unique([state.y[1] for state in states])) > 6
    origins = c.controller.origins[:7]  # the last step may have begun one more, for a state that is not reached here
    assert len(origins) == 7
    for origin in origins:
        np.testing.assert_array_equal(origin.y, states[round(origin.time / block.dt)].y)
    assert c.pilot.deadline_misses == 0


def test_coarser_plans_begin_and_take_effect_on_their_grid(block, cockpit):
    # Controls last 2 steps. Plannings take 0.75 periods, which their grid makes 2 as soon as the median says so.
    def rule(n, state):
        return np.clip(0.4 - state.y[0] - 0.05 * n, -0.5, 0.5) + 0.0625 * np.arange(8)

    c = cockpit(stride=2, rule=rule)
    states, plans, u = [c.state], [], []
    for k in range(12):
        c.clock.time = k * block.dt
        decision = c.step()
        states.append(c.state)
        plans.append(round(decision.plan.time / block.dt))
        u.append(decision.u[0])
        if k and k % 2 == 0:  # a planning for every control, not for every step
            c.await_planning()
            c.clock.pass_(0.75 * block.dt)
            c.finish_planning()
    origins = c.controller.origins[2:]
    # The first begins at step 2, for that very step, where a median of nothing says that it takes none.
    assert [round(origin.time / block.dt) for origin in origins] == [2, 6, 8, 10, 12]
    for origin in origins:
        np.testing.assert_array_equal(origin.y, states[round(origin.time / block.dt)].y)
    assert plans == [0, 0, 0, 2, 2, 2, 6, 6, 8, 8, 10, 10]
    assert np.diff(np.reshape(u[4:], (-1, 2)), axis=1).tolist() == [[0.0]] * 4  # held, also where plans change
    assert len(np.unique(u[4:])) == 4
    assert c.pilot.deadline_misses == 0


def test_a_state_between_grid_points_is_predicted_by_the_mean_controls(block):
    # From step 2 on, two steps of 1 and two of -0.5 are one of 0.25: the velocity is exact, the position nearly.
    schedule = Schedule(block.dt, block.robot.control_limits)
    schedule.add(_Entry(Plan(0.0, 4 * block.dt, np.array([[1.0], [-0.5], [3.0]])), 0.0, 0.0), 0.0)
    assert schedule.controls(2 * block.dt, 2, 4).tolist() == [[0.25], [0.25]]
    assert schedule.controls(4 * block.dt, 2, 4).tolist() == [[-0.5], [1.0]]  # on the grid, within the limits
    controller, plant, states = block.Ahead(None, stride=4), block.Plant(), []
    states.append(plant.reset(0))
    for k in range(10):
        states.append(plant.step(np.clip(schedule.at(k * block.dt).plan.control(k * block.dt), -1.0, 1.0)))
    predicted = schedule.predict(controller, states[2], 8)
    assert predicted.time == states[10].time
    assert predicted.y[1] == states[10].y[1] == 0.5
    assert predicted.y[0] == pytest.approx(states[10].y[0], abs=0.5 * (4 * block.dt) ** 2)


def test_a_coarser_plan_is_late_after_its_own_period(block, cockpit):
    # Two of the loop's periods are there for a planning: 1.75 is in time, 2.25 is late.
    c, misses = cockpit(stride=2, compensate=False), []
    for k, periods in ((0, 0.0), (1, 0.0), (2, 1.75), (3, 0.0), (4, 2.25)):
        c.clock.time = max(c.clock.time, k * block.dt)
        c.step()
        if periods:
            c.await_planning()
            c.clock.pass_(periods * block.dt)
            c.finish_planning()
            misses.append(c.pilot.deadline_misses)
    assert misses == [0, 1]


def test_the_age_of_the_state_adds_to_the_prediction(block, cockpit):
    c = cockpit()
    c.step()
    c.tick()
    c.step()
    c.await_planning()  # from step 1
    c.tick()
    c.step()
    c.clock.pass_(0.7 * block.dt)
    c.go.release()  # took 1.7 periods; the next begins at once, 0.7 periods after the state of step 2
    c.await_planning()
    # Median of [0, 1.7] is 0.85: it will be over 0.7 + 0.85 = 1.55 periods after that state, within step 4.
    assert c.controller.origins[-1].time == 4 * block.dt
    c.clock.pass_(0.1 * block.dt)
    c.finish_planning()  # early: its plan is in force from step 4 on only
    plans = []
    for k in (3, 4):
        c.clock.time = k * block.dt
        plans.append(c.step().plan.time / block.dt)
        c.await_planning()
        c.finish_planning()
    assert plans == [1.0, 4.0]


def test_a_plan_at_its_end_or_too_old_is_stale(block, cockpit):
    c = cockpit(horizon=3)
    kinds = []
    for _ in range(5):
        fault = c.step().fault
        kinds.append(None if fault is None else (fault.kind, fault.fatal))
        c.tick()
    assert kinds == [None, None, None, ("stale", False), ("stale", False)]
    c.await_planning()
    c.finish_planning()
    assert c.step().fault is None  # a new plan, and the controller is back
    c = cockpit(stale=2 * block.dt)
    faults = []
    for _ in range(4):
        faults.append(c.step().fault)
        c.tick()
    assert faults[:3] == [None, None, None]
    assert faults[3].kind == "stale"
    assert "0.375 s old" in faults[3].detail


def test_a_planning_beyond_its_time_hangs(block, cockpit):
    c = cockpit(hang=3 * block.dt)
    c.step()
    c.tick()
    c.step()
    c.await_planning()
    for _ in range(3):
        c.tick()
        assert c.step().fault is None
    c.clock.pass_(0.1 * block.dt)
    fault = c.step().fault
    assert (fault.kind, fault.fatal) == ("hang", True)
    c.finish_planning()
    assert c.step().fault.kind == "hang"  # what was given up stays so


# Whole runs by the real clock ---------------------------------------------------------------------------------------


def fast(block):
    """The task and the plant again, for runs that need not last: only the clock's period differs from the plant's."""
    start = clocks.perf_counter()
    return Wall(lambda: (clocks.perf_counter() - start) * 20.0, lambda s: clocks.sleep(s / 20.0))


def test_a_run_by_the_wall_clock(block):
    controller = block.Ahead(lambda n, s: np.full(80, 0.5))
    before = gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval(), os.sched_getscheduler(0)
    inside = []

    def hook(k, u):
        inside.append((gc.isenabled(), gc.get_freeze_count() > 0, sys.getswitchinterval() < before[2]))

    e = run(block.Plant(hook), controller, task=block.task, duration=0.5, clock="wall")
    assert (e.status, len(e), e.fallbacks, e.clock) == ("done", 4, 0, "wall")
    np.testing.assert_array_equal(e.y[:, 1], e.time / 2)
    assert e.wall_s >= 3 * block.dt
    assert set(inside) == {(False, True, True)}
    assert (gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval(), os.sched_getscheduler(0)) == before
    assert len(e.notes) == 1
    assert "real-time priority" in e.notes[0]


def test_patience_may_be_without_end(block):
    class Watcher:
        patience = np.inf
        start = step = end = staticmethod(lambda *given: None)

    controller, safety = block.Ahead(lambda n, s: np.full(80, 0.5)), Safety(hang=np.inf, warmup=np.inf, grace=np.inf)
    given = {"clock": fast(block), "safety": safety, "observers": [Watcher()]}
    e = run(block.Plant(), controller, task=block.task, duration=0.5, **given)
    assert (e.status, len(e), e.dropped_frames) == ("done", 4, {"Watcher": 0})


@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_a_planner_that_fails_leaves_the_robot_to_its_fallback(block, release, fault):
    def rule(n, state):
        if n == 4:
            if fault == "raises":
                raise ArithmeticError("singular")
            release.wait()
        return np.full(800, 0.5)

    brake = block.Script(lambda s: -0.25)
    kind = {"raises": "error", "hangs": "hang"}[fault]
    hang = {"raises": 40.0, "hangs": 5.0}[fault]
    safety = Safety(hang=hang, grace=0.5, fallbacks={kind: brake})
    e = run(block.Plant(), block.Ahead(rule), task=block.task, duration=1e3, clock=fast(block), safety=safety, seed=5)
    assert e.status == "failed"
    assert ("ArithmeticError: singular" if fault == "raises" else "longer than 5 s") in e.reason
    assert 2 <= len(e) < 8000  # ended by the fault, not by the time
    good = len(e) - e.fallbacks
    assert good >= 1
    assert e.u[:, 0].tolist() == [0.5] * good + [-0.25] * e.fallbacks
    assert [(event.kind, event.fallback) for event in e.events] == [(kind, "Script")]
    assert len(e.y) == len(e) + 1
    np.testing.assert_allclose(np.diff(e.y[:, 1]), e.u[:, 0] * block.dt)
    assert any("test_wall_clock.py" in n for n in e.notes) == (fault == "raises")
    assert any("left behind" in n for n in e.notes) == (fault == "hangs")


@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_without_a_first_plan_nothing_moves(block, release, fault):
    def rule(n, state):
        if fault == "raises":
            raise ArithmeticError("singular")
        release.wait()

    def hook(k, u):
        raise AssertionError("moved")

    safety = Safety(warmup=0.05)
    e = run(block.Plant(hook), block.Ahead(rule), task=block.task, clock="wall", safety=safety)
    assert (e.status, len(e), len(e.y)) == ("failed", 0, 1)
    assert ("ArithmeticError: singular" if fault == "raises" else "first plan took longer than 0.05 s") in e.reason
    assert [event.kind for event in e.events] == [{"raises": "error", "hangs": "hang"}[fault]]
    assert e.summary()["steps"] == 0


def test_a_program_with_a_hung_planner_ends(tmp_path):
    script = tmp_path / "hung.py"
    script.write_text(f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import *
from trimtab.controllers import Safety, run

def rule(n, state):
    if n == 3:
        threading.Event().wait()
    return np.full(80, 0.5)

e = run(Block(), Ahead(rule), task=TASK, duration=60.0, clock="wall", safety=Safety(hang=0.1, grace=0.1))
e.save(sys.argv[1])
print(e.status, e.reason)
""")
    command = [sys.executable, script, tmp_path / "e.npz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "failed a planning takes longer than 0.1 s" in done.stdout
    assert (tmp_path / "e.npz").exists()


# The process --------------------------------------------------------------------------------------------------------


def test_priority_that_is_not_granted_is_told(monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with undisturbed() as notes:
        assert notes == ["real-time priority: not granted (Operation not permitted); the loop ran at normal priority"]


def test_priority_that_is_granted_is_given_back(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda pid, policy, param: asked.append((pid, policy)))
    policy = os.sched_getscheduler(0)
    with undisturbed() as notes:
        assert asked == [(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK)]
    assert notes == ["real-time priority: granted"]
    assert asked[1:] == [(0, policy)]


def test_a_callers_own_settings_outlast_a_run():
    gc.disable()
    gc.freeze()
    frozen, interval = gc.get_freeze_count(), sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.02)
        with pytest.raises(RuntimeError, match="inside"), undisturbed():
            raise RuntimeError("inside")
        assert not gc.isenabled()
        assert gc.get_freeze_count() >= frozen > 0
        assert sys.getswitchinterval() == pytest.approx(0.02)
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        gc.enable()
