"""What plans foretold against what happened, as it is drawn, read back from the recording."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import rerun as rr
from scipy import stats
from scipy.spatial.transform import Rotation
from trimtab import robots, sim
from trimtab.controllers import MPC, Plan, loop
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.launch.viewer.foresight import Foresight
from trimtab.launch.viewer.observer import StreamView

TASK = robots.load("cartpole-swingup")
DT = TASK.robot.dt


class Oracle:
    """Keeps to plans on a grid `stride` times coarser than the loop's; their predictions are drawn at random.

    A plan is followed for `replan` of its own steps.
    """

    dynamics = None

    def __init__(self, members, stride=2, replan=2, horizon=12):
        self.members, self.stride, self.horizon = members, stride, horizon
        self.planner = SimpleNamespace(replan=replan, horizon=horizon)
        self.plans = []

    @property
    def latest(self):
        return self.plans[-1] if self.plans else None

    def reset(self, seed):
        self.rng = np.random.default_rng(seed)
        self.plans = []

    def control(self, state):
        plan = self.latest
        if plan is None or plan.step_at(state.time) >= self.planner.replan:
            shape = (self.members, self.horizon + 1, len(state.y))
            noise = self.rng.normal(size=shape) * np.linspace(0.0, 0.3, self.horizon + 1)[:, None]
            controls = self.rng.uniform(-1.0, 1.0, (self.horizon, TASK.robot.nu))
            plan = Plan(state.time, self.stride * DT, controls, cost=1.0, prediction=state.y + noise)
            self.plans.append(plan)
        return plan.control(state.time)


def drawn(controller, steps, read, path, simulator="casadi", task=TASK):
    stream = rr.RecordingStream("test", recording_id=str(path))
    stream.save(str(path))
    plant = sim.make(simulator, task)
    episode = loop.run(
        plant, controller, task=task, duration=steps * DT, seed=1, observers=[StreamView(stream)], clock="virtual"
    )
    assert episode.notes == []
    assert episode.dropped_frames == {"StreamView": 0}
    stream.flush(timeout_sec=10.0)
    stream.disconnect()
    return episode, read(path)


@pytest.fixture
def oracle(read, tmp_path):
    """A run of 60 steps by plans of so many members: (their controller, episode, recording)."""

    def run(members, **options):
        controller = Oracle(members, **options)
        return controller, *drawn(controller, 60, read, tmp_path / f"{members}.rrd")

    return run


def place(y):
    return np.asarray(TASK.trace(TASK.robot.layout(y)))


@pytest.mark.parametrize("members", [1, 5, 20])
def test_errors_and_spreads_are_those_at_the_plans_own_times(members, oracle):
    controller, episode, found = oracle(members)
    looks = {
        # Every plan is followed for 2 of its steps, 4 of the loop's; the last one until the end of the run.
        "next": [(plan, 2) for plan in controller.plans],
        # Drawn are plans that come 0.1 s or more after the one drawn last; a horizon is 24 of the loop's steps.
        "horizon": [(plan, 12) for plan in controller.plans[::3] if plan.end <= episode.time[-1] + 1e-9],
    }
    assert [len(some) for some in looks.values()] == [15, 4]
    for kind, some in looks.items():
        times, rows = found.column(f"/plots/{kind}/place", "Scalars:scalars")
        np.testing.assert_allclose(times, [plan.time + at * plan.dt for plan, at in some], atol=1e-8)
        within = found.values(f"/plots/{kind}/readings", "Scalars:scalars")
        for row, relative, (plan, at) in zip(rows, within, some):
            k = round((plan.time + at * plan.dt) / DT)
            foretold, y = plan.prediction[:, at], episode.y[k]
            assert row[0] == pytest.approx(np.linalg.norm(place(y) - place(foretold).mean(0)))
            span = np.ptp(episode.y[: k + 1], axis=0)
            assert relative[0] == pytest.approx(100.0 * np.sqrt(np.mean(((y - foretold.mean(0)) / span) ** 2)))
            assert len(row) == len(relative) == (1 if members == 1 else 2)
            if members > 1:
                assert row[1] == pytest.approx(np.sqrt(np.trace(np.cov(place(foretold).T))))
                assert relative[1] == pytest.approx(100.0 * np.sqrt(np.mean(foretold.var(0, ddof=1) / span**2)))
    names = found.column("/plots/next/place", "SeriesLines:names")[1][0]
    assert names == (["error"] if members == 1 else ["error", "members' spread"])


def test_shares_within_the_band(oracle):
    controller, episode, found = oracle(5)
    rows = found.values("/plots/next/band", "Scalars:scalars")
    factor = stats.t(4).ppf(0.95) * np.sqrt(1.2)
    shares = []
    for plan, row in zip(controller.plans, rows, strict=True):
        y, foretold = episode.y[round(plan.time / DT) + 4], plan.prediction[:, 2]
        shares.append(np.mean(abs(y - foretold.mean(0)) <= factor * foretold.std(0, ddof=1)))
        np.testing.assert_allclose(row, [100.0 * np.mean(shares), 90.0])
    assert 0.0 < np.mean(shares) < 1.0
    assert len(found.values("/plots/horizon/band", "Scalars:scalars")) == 4


@pytest.mark.parametrize("members", [2, 5, 20])
def test_the_band_holds_nine_of_ten_where_members_are_right(members):
    rng = np.random.default_rng(members)
    foresight, ny, shares = Foresight(TASK, members), TASK.robot.layout.size, []
    for k in range(2000):
        plan = Plan(k * DT, DT, np.zeros((1, 1)), prediction=3.0 + 0.1 * rng.normal(size=(members, 2, ny)))
        foresight.follow(plan, (k + 1) * DT)
        y = 3.0 + 0.1 * rng.normal(size=(1, ny))
        for message in foresight.happened(np.array([(k + 1) * DT]), y, np.array([False])):
            shares.append(message.curves["next/band"][0, 0])
    # Of 20 plans each; those one after another share 19 of them.
    shares = np.array(shares)[19::20]
    assert abs(shares.mean() - 90.0) < 3.0 * 100.0 * np.sqrt(0.09 / (20 * len(shares) * ny))


def test_a_model_that_is_right_has_no_error_and_shows_no_spread(read, tmp_path):
    planner = PredictiveSampling(horizon=10, samples=8, replan=5)
    controller = MPC(planner, sim.dynamics("mujoco", TASK), TASK)
    episode, found = drawn(controller, 40, read, tmp_path / "r.rrd", "mujoco")
    rows = found.values("/plots/next/place", "Scalars:scalars")
    assert rows.shape == (8, 1)
    np.testing.assert_allclose(rows, 0.0, atol=1e-9)
    assert np.linalg.norm(np.diff(place(episode.y), axis=0), axis=1).max() > 1e-3  # something did move
    assert len(found.values("/plots/horizon/place", "Scalars:scalars")) > 0
    for path in ("/plots/next/band", "/plots/horizon/band", "/plots/spread", "/world/plan/spread"):
        assert path not in found


def test_fans_are_of_some_members_and_ellipsoids_of_all(oracle):
    controller, _, found = oracle(20)
    times, strips = found.column("/world/plan/prediction", "LineStrips3D:strips")
    plans = controller.plans[::3]
    np.testing.assert_allclose(times, [plan.time + DT for plan in plans], atol=1e-8)
    paths = place(plans[0].prediction)
    fan = np.array(strips[0])
    assert fan.shape == (9, 13, 3)
    np.testing.assert_allclose(fan[[0, 7]], paths[[0, 19]], atol=1e-6)
    np.testing.assert_allclose(fan[8], paths.mean(0), atol=1e-6)

    centres = np.array(found.column("/world/plan/spread", "Ellipsoids3D:centers")[1][0])
    sizes = np.array(found.column("/world/plan/spread", "Ellipsoids3D:half_sizes")[1][0])
    turns = Rotation.from_quat(found.column("/world/plan/spread", "Ellipsoids3D:quaternions")[1][0]).as_matrix()
    np.testing.assert_allclose(centres, paths[:, 2::2].mean(0), atol=1e-6)
    for size, turn, at in zip(sizes, turns, range(2, 13, 2), strict=True):
        np.testing.assert_allclose(turn @ np.diag(size**2) @ turn.T, np.cov(paths[:, at].T), atol=1e-5)

    times, spreads = found.column("/plots/spread", "Scalars:scalars")
    for spread, plan in zip(spreads, plans, strict=True):
        ahead = place(plan.prediction[:, [6, 12]])
        np.testing.assert_allclose(spread, np.sqrt(ahead.var(axis=0, ddof=1).sum(-1)), rtol=1e-4)


def test_a_plan_that_is_over_is_beside_what_happened(oracle):
    controller, episode, found = oracle(5)
    times, strips = found.column("/world/past", "LineStrips3D:strips")
    plans = [plan for plan in controller.plans[::3] if plan.end <= episode.time[-1] + 1e-9]
    np.testing.assert_allclose(times, [plan.end for plan in plans], atol=1e-8)
    for (*members, mean, executed), plan in zip(strips, plans):
        np.testing.assert_allclose(members, place(plan.prediction), atol=1e-5)
        np.testing.assert_allclose(mean, place(plan.prediction).mean(0), atol=1e-5)
        first = round(plan.time / DT)
        path = place(episode.y[first : first + 25 : 2])
        # No step reaches the beginning of the run.
        np.testing.assert_allclose(executed, path[1:] if first == 0 else path, atol=1e-5)


def test_what_safety_replaced_was_not_foretold(read, tmp_path):
    class Faulty(Oracle):
        def control(self, state):
            u = super().control(state)
            return u if round(state.time / DT) != 30 else u + np.nan

    controller = Faulty(5)
    episode, found = drawn(controller, 60, read, tmp_path / "r.rrd")
    assert [event.kind for event in episode.events] == ["nan"]
    times, _ = found.column("/plots/next/place", "Scalars:scalars")
    ends = [plan.time + 4 * DT for plan in controller.plans if not plan.time < 30.5 * DT < plan.time + 4 * DT]
    assert len(ends) == 14
    np.testing.assert_allclose(times, ends, atol=1e-8)
    times, _ = found.column("/plots/horizon/place", "Scalars:scalars")
    ends = [plan.end for plan in controller.plans[::3] if not plan.time < 30.5 * DT < plan.end]
    np.testing.assert_allclose(times, [end for end in ends if end < 60.5 * DT], atol=1e-8)


def messages(foresight, steps, y=None):
    """What `foresight` tells of the steps that reached the times `steps` x DT."""
    time = DT * np.asarray(steps)
    y = np.zeros((len(time), TASK.robot.layout.size)) if y is None else y
    return [*foresight.happened(time, y, np.zeros(len(time), bool))]


def test_members_that_break_down_are_left_out():
    prediction = np.random.default_rng(0).normal(size=(4, 3, TASK.robot.layout.size))
    broken = np.concatenate([prediction, np.full_like(prediction[:1], np.nan)])
    told = []
    for some in (prediction, broken, broken[4:]):
        foresight = Foresight(TASK, len(some) + (len(some) == 1))
        foresight.follow(Plan(0.0, DT, np.zeros((2, 1)), prediction=some), DT)
        messages(foresight, [1, 2])
        told.append([*foresight.finish()])
    (sound,), (fewer,), none = told
    assert none == []
    for name, lines in sound.curves.items():
        np.testing.assert_array_equal(fewer.curves[name], lines)


def test_a_plan_without_a_step_of_its_grid_that_was_seen_is_not_compared():
    ny = TASK.robot.layout.size
    short = Plan(0.0, 4 * DT, np.zeros((5, 1)), prediction=np.ones((3, 6, ny)))
    following = dataclasses.replace(short, time=2 * DT)
    foresight = Foresight(TASK, 3)
    foresight.follow(short, DT)
    foresight.follow(following, 3 * DT)
    assert messages(foresight, [1, 2, 3, 4, 5]) == []  # replaced after half of its first step
    # Step 10 is dropped by the observer's queue: 6 is the last on the grid that was seen.
    seen = np.arange(float(6 * ny)).reshape(6, ny)
    messages(foresight, [6, 7, 8, 9, 11, 12], seen)
    (last,) = foresight.finish()
    expected = np.linalg.norm(place(seen[0]) - place(np.ones(ny)))
    np.testing.assert_allclose(last.curves["next/place"], [[expected, 0.0]], atol=1e-12)


def test_a_long_plan_keeps_no_more_readings_than_it_is_compared_with():
    foresight = Foresight(TASK, 2)
    prediction = np.zeros((2, 6, TASK.robot.layout.size))
    for k in range(0, 2000, 5):
        plan = Plan(k * DT, DT, np.zeros((5, 1)), prediction=prediction)
        foresight.follow(plan, (k + 1) * DT)
        assert [*foresight.watch(plan, (k + 1) * DT, None)] == []
        messages(foresight, range(k + 1, k + 6))
    assert len(foresight._happened) < 200


@pytest.mark.parametrize("traced", [True, False])
def test_a_task_that_traces_no_place_has_errors_of_its_readings(traced, read, tmp_path):
    task = TASK if traced else dataclasses.replace(TASK, trace=None)
    controller = Oracle(3)
    _, found = drawn(controller, 60, read, tmp_path / "r.rrd", task=task)
    assert len(found.values("/plots/next/readings", "Scalars:scalars")) == 15
    assert len(found.values("/plots/horizon/band", "Scalars:scalars")) == 4
    assert ("/plots/next/place" in found) == ("/world/past" in found) == traced
