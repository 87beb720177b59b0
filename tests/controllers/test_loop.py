import dataclasses
import errno
import gc
import os
import resource
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.controllers import MPC, Episode, Event, Safety, Wall, run
from trimtab.controllers.cem import CEM
from trimtab.robots import UnknownName
from trimtab.robots.cartpole import ROBOT
from trimtab.sim import SimulationError
from trimtab.sim.mujoco_dynamics import MujocoDynamics

ARRAYS = ("time", "y", "x", "u", "reward", "cost", "plan_age", "plan_time", "plan_cost")


def same_bits(a: Episode, b: Episode) -> bool:
    return all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)


def test_records_what_happens(block):
    # Pushed by 0.5 from rest: p = t^2 / 4, exactly, since dt is a binary fraction.
    controller = block.Script(lambda s: 0.5)
    e = run(block.Plant(), controller, task=block.task, seed=7)
    t = np.arange(17) * block.dt
    assert (e.status, e.reason, len(e), controller.seed) == ("done", "", 16, 7)
    np.testing.assert_array_equal(e.time, t)
    np.testing.assert_array_equal(e.y, np.stack([t**2 / 4, t / 2], 1))
    np.testing.assert_array_equal(e.x, e.y)
    np.testing.assert_array_equal(e.u, np.full((16, 1), 0.5))
    np.testing.assert_array_equal(e.reward, 1 - e.y[1:, 0] ** 2)
    np.testing.assert_array_equal(e.cost, e.y[1:, 0] ** 2 / 2)
    assert e.return_ == e.reward.sum()
    assert e.success  # p(2) = 1
    assert not run(block.Plant(), controller, task=block.task, duration=1.0).success
    assert (e.events, e.notes, e.fallbacks, e.missed_ticks) == ([], [], 0, 0)


def test_works_without_full_states(block):
    e = run(block.Plant(full=False), block.Script(lambda s: 0.5), task=block.task)
    assert e.x is None
    assert len(e) == 16


def test_summary_has_the_numbers_people_read(block):
    e = run(block.Plant(), block.Ahead(lambda n, s: np.zeros(8), replan=4), task=block.task)
    summary = e.summary()
    assert summary["plan_ms"] == {"p50": np.percentile(e.plan_ms, 50), "p99": np.percentile(e.plan_ms, 99)}
    assert len(e.plan_ms) == 4
    assert (summary["steps"], summary["return"], summary["cost"], summary["success"]) == (16, 16.0, 0.0, False)
    assert set(summary) == {
        *("steps", "return", "cost", "success", "plan_ms"),
        *("deadline_misses", "dropped_frames", "fallbacks", "wall_s"),
    }
    unplanned = run(block.Plant(), block.Script(lambda s: 0), task=block.task).summary()
    assert unplanned["plan_ms"] == {"p50": None, "p99": None}


def test_plans_are_noted_when_made(block):
    e = run(block.Plant(), block.Ahead(lambda n, s: np.full(8, 0.1 * n), replan=3), task=block.task)
    np.testing.assert_array_equal(e.plan_time, np.arange(0, 16, 3) * block.dt)
    np.testing.assert_array_equal(e.plan_cost, np.arange(6))
    np.testing.assert_array_equal(e.plan_age, np.arange(16) % 3 * block.dt)
    np.testing.assert_allclose(e.u[:, 0], 0.1 * (np.arange(16) // 3))


def test_plans_without_a_finite_cost_are_noted(block):
    class Lost(block.Ahead):
        def plan(self, state):
            plan = super().plan(state)
            self.latest = plan = dataclasses.replace(plan, cost=np.inf if plan.cost % 2 else plan.cost)
            return plan

    e = run(block.Plant(), Lost(lambda n, s: np.zeros(8), replan=4), task=block.task)
    assert e.notes == ["2 of 4 plans have no finite cost: the model diverges, or the task's cost does"]


def test_terminates_where_the_task_says(block):
    task = dataclasses.replace(block.task, end=lambda y: y.position >= 0.25)
    e = run(block.Plant(), block.Script(lambda s: 0.5), task=task)
    assert (e.status, e.time[-1], len(e)) == ("terminated", 1.0, 8)  # t^2 / 4 = 1 / 4


@pytest.mark.parametrize("latency", [0.0, 0.03])
def test_same_seed_same_bits_whatever_the_threads(latency):
    task = robots.load("cartpole-swingup")
    planner = CEM(samples=16, iterations=2, horizon=12, replan=2)

    def episode(threads, seed):
        dynamics = MujocoDynamics(task, threads=threads)
        simulator = sim.make("mujoco", task)
        e = run(simulator, MPC(planner, dynamics, task), task=task, duration=0.3, seed=seed, latency=latency)
        dynamics.close()
        return e

    first = episode(1, seed=3)
    assert len(first) == 30
    assert np.ptp(first.u) > 0.1
    assert same_bits(first, episode(2, seed=3))
    assert not same_bits(first, episode(1, seed=4))


def test_continues_exactly_from_a_recorded_state():
    task = robots.load("cartpole-swingup")

    class Swing:
        def reset(self, seed):
            pass

        def control(self, state):
            return np.array([np.sin(5.0 * state.time)])

    simulator = sim.make("mujoco", task)
    whole = run(simulator, Swing(), task=task, duration=0.6)
    half = sim.State(whole.time[25], whole.y[25], whole.x[25])
    rest = run(simulator, Swing(), task=task, duration=0.35, state=half)
    for name in ("time", "y", "x"):
        np.testing.assert_array_equal(getattr(rest, name), getattr(whole, name)[25:])
    np.testing.assert_array_equal(rest.u, whole.u[25:])


# Latency ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, 1, 3])
def test_latency_shifts_a_controllers_effect_by_whole_steps(block, k):
    e = run(block.Plant(), block.Script(lambda s: 0.9 - 0.1 * s.time), task=block.task, latency=k * block.dt)
    np.testing.assert_array_equal(e.u[:k], 0)
    np.testing.assert_allclose(e.u[k:, 0], 0.9 - 0.1 * e.time[: 16 - k])


@pytest.mark.parametrize(("k", "replan", "period"), [(1, 1, 1), (3, 1, 3), (2, 4, 4), (3, 2, 3)])
def test_latency_delays_plans(block, k, replan, period):
    # Each plan's controls tell its number and the step of it: 0.1 n + 0.01 j. One planning at a time, k steps each.
    controller = block.Ahead(lambda n, s: 0.1 * n + 0.01 * np.arange(8), replan)
    e = run(block.Plant(), controller, task=block.task, duration=1.0, latency=k * block.dt, compensate=False)
    assert [s.time for s in controller.origins] == [i * block.dt for i in range(0, 8, period)]
    step = np.arange(k, 8)
    number = (step - k) // period
    np.testing.assert_allclose(e.u[k:, 0], 0.1 * number + 0.01 * (step - number * period), atol=1e-12)
    np.testing.assert_array_equal(e.u[:k], 0)
    np.testing.assert_allclose(e.plan_age[k:], (step - number * period) * block.dt)
    assert np.isnan(e.plan_age[:k]).all()


def test_latency_is_compensated_by_prediction(block):
    # Planned from the state at which the plan takes effect, which a true model predicts to the bit.
    controller = block.Ahead(lambda n, s: np.clip(0.3 - s.y[0] - 0.5 * s.y[1] + 2.0 * (n == 1), -2, 2) * np.ones(8))
    e = run(block.Plant(), controller, task=block.task, latency=3 * block.dt)
    assert np.abs(e.u).max() == 1.0  # a plan beyond the limits is predicted as it will be applied
    assert len(controller.origins) == 6
    for n, origin in enumerate(controller.origins):
        step = 3 * n + 3
        assert origin.time == e.plan_time[n] == step * block.dt
        if step <= 16:
            np.testing.assert_array_equal(origin.y, e.y[step])


@pytest.mark.parametrize(("stride", "replan"), [(2, 1), (2, 3), (3, 2)])
def test_controls_of_a_coarser_plan_are_held(block, stride, replan):
    # Each plan's controls tell its number and the entry: 0.1 n + 0.01 j, each for `stride` steps of the loop.
    controller = block.Ahead(lambda n, s: 0.1 * n + 0.01 * np.arange(8), replan, stride)
    e = run(block.Plant(), controller, task=block.task)
    number, within = np.divmod(np.arange(16), replan * stride)
    np.testing.assert_allclose(e.u[:, 0], 0.1 * number + 0.01 * (within // stride), atol=1e-12)
    np.testing.assert_array_equal(e.plan_time, np.arange(0, 16, replan * stride) * block.dt)
    np.testing.assert_array_equal(e.plan_age, within * block.dt)


@pytest.mark.parametrize(
    ("k", "replan", "stride", "lead", "period"), [(1, 1, 2, 2, 2), (3, 1, 2, 4, 4), (2, 2, 2, 2, 4), (4, 1, 3, 6, 6)]
)
def test_latency_of_coarser_plans_is_rounded_up_to_their_grid(block, k, replan, stride, lead, period):
    """Planning takes k steps: a plan is in force `lead` steps after its state, and the next begins after `period`."""
    controller = block.Ahead(lambda n, s: 0.1 * n + 0.01 * np.arange(8), replan, stride)
    e = run(block.Plant(), controller, task=block.task, latency=k * block.dt, compensate=False)
    assert [s.time for s in controller.origins] == [i * block.dt for i in range(0, 16, period)]
    step = np.arange(lead, 16)
    number = (step - lead) // period
    np.testing.assert_allclose(e.u[lead:, 0], 0.1 * number + 0.01 * ((step - number * period) // stride), atol=1e-12)
    np.testing.assert_array_equal(e.u[:lead], 0)
    np.testing.assert_allclose(e.plan_age[lead:], (step - number * period) * block.dt)


@pytest.mark.parametrize(("k", "stride"), [(1, 2), (2, 2), (3, 2), (4, 3)])
def test_latency_of_coarser_plans_is_compensated_by_prediction(block, k, stride):
    # A different control for every entry: the prediction must hold each as long as the loop will.
    def rule(n, state):
        return np.clip(0.3 - state.y[0] - 0.5 * state.y[1], -0.9, 0.9) + 0.0625 * np.arange(8) - 0.25

    controller = block.Ahead(rule, 1, stride)
    e = run(block.Plant(), controller, task=block.task, latency=k * block.dt)
    lead = -(-k // stride) * stride
    assert len(controller.origins) == len(range(0, 16, lead))
    assert len(np.unique(e.u)) > 3
    for n, origin in enumerate(controller.origins):
        step = lead * (n + 1)
        assert origin.time == e.plan_time[n] == step * block.dt
        if step <= 16:
            np.testing.assert_array_equal(origin.y, e.y[step])


def test_a_prediction_that_diverges_is_done_without(block):
    class Diverging(block.Dynamics):
        def advance(self, state, controls):
            raise SimulationError("diverged")

    controller = block.Ahead(lambda n, s: np.full(8, 0.5))
    controller.dynamics = Diverging()
    e = run(block.Plant(), controller, task=block.task, latency=2 * block.dt)
    assert e.status == "done"
    np.testing.assert_array_equal(e.plan_time, np.arange(0, 16, 2) * block.dt)


# How runs end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["plain", "planning"])
def test_a_controller_that_raises_ends_the_run(block, kind, latency):
    def plain(state):
        if state.time >= 0.5:
            raise ZeroDivisionError("out of ideas")
        return 0.25

    def planning(n, state):
        if n == 2:
            raise ZeroDivisionError("out of ideas")
        return np.full(8, 0.25)

    controller = block.Script(plain) if kind == "plain" else block.Ahead(planning, replan=2)
    e = run(block.Plant(), controller, task=block.task, latency=latency)
    assert (e.status, len(e), len(e.time)) == ("failed", 4, 5)
    assert "ZeroDivisionError: out of ideas" in e.reason
    assert "0.5 s" in e.reason
    assert [(event.kind, event.time) for event in e.events] == [("error", 0.5)]
    assert any("test_loop.py" in note for note in e.notes)  # where it was raised
    assert np.isfinite(e.return_)


def test_a_control_of_another_shape_is_an_error(block):
    e = run(block.Plant(), block.Script(lambda s: [0.1, 0.2]), task=block.task)
    assert (e.status, len(e)) == ("failed", 0)
    assert "shape (2,)" in e.reason
    assert "(1,)" in e.reason


@pytest.mark.parametrize("error", [SimulationError("blew up"), OSError("cable")])
def test_a_plant_that_fails_ends_the_run_in_that_step(block, error):
    def hook(k, u):
        if k == 5:
            raise error

    e = run(block.Plant(hook), block.Script(lambda s: 0.5), task=block.task)
    assert (e.status, len(e), e.time[-1]) == ("failed", 5, 5 * block.dt)
    assert str(error) in e.reason
    assert "0.625 s under control [0.5]" in e.reason


def test_mujoco_divergence_ends_the_run_in_that_step():
    # MuJoCo resets a diverged simulation by itself and would go on; nothing of that may be recorded.
    task = robots.load("cartpole-balance")

    def unlimited():
        spec = ROBOT.build()
        for actuator in spec.actuators:
            actuator.ctrllimited = False
        return spec

    task = dataclasses.replace(task, robot=dataclasses.replace(task.robot, build=unlimited))
    assert np.isinf(task.robot.control_limits).all()

    class Mad:
        def reset(self, seed):
            pass

        def control(self, state):
            return np.array([1e15 if state.time > 0.045 else 0.0])

    e = run(sim.make("mujoco", task), Mad(), task=task, duration=0.2)
    assert (e.status, len(e)) == ("failed", 5)
    assert "diverged" in e.reason
    assert "1.e+15" in e.reason
    assert np.isfinite(e.y).all()
    assert e.time[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("kind", ["plain", "planning"])
def test_ctrl_c_keeps_what_there_is(block, clock, kind):
    def hook(k, u):
        if k == 5:
            raise KeyboardInterrupt

    class Watcher:
        ended = None

        def start(self, scene, task):
            pass

        def step(self, state, u, plan, timing):
            pass

        def end(self, episode):
            self.ended = episode

    before = gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval(), os.sched_getscheduler(0)
    watcher, time = Watcher(), block.Clock()
    controller = block.Script(lambda s: 0.5) if kind == "plain" else block.Ahead(lambda n, s: np.full(800, 0.5))
    clock = Wall(time.now, time.sleep) if clock == "wall" else clock
    e = run(block.Plant(hook), controller, task=block.task, clock=clock, observers=[watcher])
    assert (e.status, len(e), e.reason) == ("interrupted", 5, "interrupted")
    np.testing.assert_array_equal(e.y[:, 1], e.time / 2)
    assert watcher.ended is e
    assert (gc.isenabled(), gc.get_freeze_count(), sys.getswitchinterval(), os.sched_getscheduler(0)) == before


def test_what_does_not_fit_is_refused_before_anything_moves(block):
    controller = block.Script(lambda s: 0.5)

    class Slow(block.Plant):
        dt = 0.25

    for problem, arguments in {
        "duration is 0": {"duration": 0},
        "duration is nan": {"duration": np.nan},
        "latency is 0.1 s": {"latency": 0.1},
        "latency is -0.125 s": {"latency": -0.125},
        "latency is inf": {"latency": np.inf},
        "virtual clock": {"latency": 0.125, "clock": "wall"},
        "'virtal'; did you mean 'virtual'": {"clock": "virtal"},
        "simulator steps by 0.25 s": {"simulator": Slow()},
        "one number or": {"safety": Safety(rate=np.ones(3))},
    }.items():
        simulator = arguments.pop("simulator", block.Plant())
        with pytest.raises(ValueError, match=problem):
            run(simulator, controller, task=block.task, **arguments)
        assert not hasattr(simulator, "k")
    with pytest.raises(UnknownName, match="virtual, wall"):
        run(block.Plant(), controller, task=block.task, clock="moon")


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["inline", "delayed", "threaded"])
def test_memory_does_not_grow_over_ten_thousand_plans(block, how):
    sizes = {}
    planned = threading.Semaphore(0)

    class Counting(block.Ahead):
        def plan(self, state):
            plan = super().plan(state)
            planned.release()
            self.origins = self.origins[-1:]
            return plan

    def hook(k, u):
        assert planned.acquire(timeout=30.0)
        if k in (500, 10_500):
            gc.collect()
            sizes[k] = tracemalloc.get_traced_memory()[0]

    controller, time = Counting(lambda n, s: np.full(64, 0.5)), block.Clock()
    clock = Wall(time.now, time.sleep) if how == "threaded" else "virtual"
    latency = block.dt if how == "delayed" else 0.0
    tracemalloc.start()
    try:
        e = run(
            block.Plant(hook), controller, task=block.task, duration=10_501 * block.dt, clock=clock, latency=latency
        )
    finally:
        tracemalloc.stop()
    assert e.status == "done"
    assert len(e.plan_ms) > 10_000
    # 10,000 plans of 64 controls would take 5 MB, the times of 10,000 plans 240 kB.
    assert sizes[10_500] - sizes[500] < 50_000


# Files --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def episode(block):
    e = run(block.Plant(), block.Ahead(lambda n, s: np.full(8, np.nan if n == 3 else 0.5)), task=block.task)
    e.dropped_frames["Viewer"] = 3
    e.notes.append("a note, with ünïcode")
    return e


@pytest.mark.parametrize("full", [True, False])
def test_saves_and_loads_every_field(episode, tmp_path, full):
    if not full:
        episode.x = None
    path = tmp_path / "run"
    episode.save(path)
    loaded = Episode.load(path)
    assert len(episode.events) == 1
    assert isinstance(loaded.events[0], Event)
    for field in dataclasses.fields(Episode):
        np.testing.assert_equal(getattr(loaded, field.name), getattr(episode, field.name), err_msg=field.name)
    assert loaded.summary() == episode.summary()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_file_that_can_not_be_written_leaves_nothing(episode, tmp_path):
    path = tmp_path / "run.npz"
    path.write_text("an older file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the kernel refuses the bytes from then on
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            episode.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert str(path) in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]
    assert path.read_text() == "an older file"
    with pytest.raises(FileNotFoundError, match="No such file"):
        episode.save(tmp_path / "nowhere" / "run.npz")


def test_loads_episodes_only(episode, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="holds no episode"):
        Episode.load(path)
    np.savez(path, y=np.zeros(3))
    with pytest.raises(ValueError, match="holds no episode"):
        Episode.load(path)
    np.savez(path, meta=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds no episode"):
        Episode.load(path)
    episode.save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="holds no episode"):
        Episode.load(path)
    with pytest.raises(FileNotFoundError):
        Episode.load(tmp_path / "nothing")
