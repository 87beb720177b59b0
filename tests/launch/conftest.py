"""What the viewer's tests share: a moving robot, a plan to show, and recordings read back without a viewer."""

from types import SimpleNamespace

import numpy as np
import pytest
import rerun as rr
from trimtab import robots, sim
from trimtab.controllers import Plan, loop


class Swing:
    """Moves every joint a little, by plans that come with candidates."""

    dynamics = None

    def __init__(self, task, members, hook):
        self.task = task
        self.hook = hook
        self.members = members
        self.planner = SimpleNamespace(replan=5, horizon=20)
        self.latest = None

    def reset(self, seed):
        self.latest = None

    def control(self, state):
        if self.hook is not None:
            self.hook(round(state.time / self.task.robot.dt))
        if self.latest is None or self.latest.step_at(state.time) >= self.planner.replan:
            self.latest = self.plan(state)
        return 0.5 * np.sin(8.0 * state.time + np.arange(self.task.robot.nu))

    def plan(self, state):
        drift = np.linspace(0.0, 0.2, 21)[:, None]
        y = state.y + drift * np.arange(8)[:, None, None]
        return Plan(
            time=state.time,
            dt=self.task.robot.dt,
            controls=np.zeros((20, self.task.robot.nu)),
            cost=1.5,
            prediction=np.broadcast_to(state.y + drift, (self.members, 21, len(state.y))).copy(),
            candidates=y,
            candidate_costs=np.where(np.arange(8) == 3, np.inf, np.arange(8.0)),
        )


@pytest.fixture
def swing():
    """Runs robot `name` for some steps under observers: (task, plant, episode). `hook(k)` is called before step k."""

    def run(name, steps, observers=(), members=1, hook=None):
        task = robots.load(name)
        plant = sim.make("mujoco", task)
        controller = Swing(task, members, hook)
        duration = steps * task.robot.dt
        episode = loop.run(plant, controller, task=task, duration=duration, seed=1, observers=observers)
        return task, plant, episode

    return run


class Recording:
    """A recording's chunks by entity."""

    def __init__(self, path):
        self.chunks = {}
        for chunk in rr.chunk.RrdReader(str(path)).stream():
            self.chunks.setdefault(str(chunk.entity_path), []).append(chunk.to_record_batch())

    def __contains__(self, path):
        return path in self.chunks

    def paths(self, start):
        return [path for path in self.chunks if path.startswith(start)]

    def column(self, path, name):
        """The rows of the column whose name ends in `name`, by time if they have any, as (seconds, values)."""
        rows = []
        for batch in self.chunks[path]:
            for field in batch.schema.names:
                if field.endswith(name):
                    timed = "sim_time" in batch.schema.names
                    times = batch.column("sim_time").cast("int64").to_pylist() if timed else [0] * batch.num_rows
                    rows += [(t / 1e9, v) for t, v in zip(times, batch.column(field).to_pylist()) if v is not None]
        rows.sort(key=lambda row: row[0])
        return np.array([t for t, _ in rows]), [v for _, v in rows]

    def values(self, path, name):
        return np.array(self.column(path, name)[1])

    def texts(self):
        return [text for (text,) in self.column("/log", "TextLog:text")[1]]


@pytest.fixture
def read():
    """A recording read back."""
    return Recording
