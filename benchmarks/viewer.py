"""What watching costs: time on the loop's thread, bytes of a recording, memory.

A humanoid at 50 Hz under the wall clock, with plans of 16 candidates ten times a second, is run in blocks in turn
unwatched and watched (recorder and live view at once, the latter into rerun's own server). A step's time is from the
tick's end to the moment at which the loop goes to sleep again. What is added to the worst step can only be told from
the watched blocks' worst against the unwatched ones': a shared machine interrupts both.

What comparing plans with what happened adds is told apart: time in the run's process, on the observer's thread, with
and without the comparison in turn.

    python benchmarks/viewer.py            # about five minutes
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from trimtab import robots, sim
from trimtab.controllers import Plan, loop
from trimtab.controllers.interface import Timing
from trimtab.controllers.observers import Audience
from trimtab.controllers.realtime import Wall
from trimtab.launch.viewer import digest, windows
from trimtab.launch.viewer.observer import LiveView, Recorder

PERIOD = 0.02
HORIZON, CANDIDATES, REPLAN = 40, 16, 5


class Timed:
    """A plant that notes when each of its steps begins, and a clock that notes when the loop next sleeps."""

    def __init__(self, plant) -> None:
        self._plant = plant
        self._begun = None
        self.dt, self.reset, self.scene, self.close = plant.dt, plant.reset, plant.scene, plant.close
        self.busy: list[float] = []
        self.clock = Wall(sleep=self._sleep)

    def step(self, u):
        self._begun = time.perf_counter()
        return self._plant.step(u)

    def _sleep(self, seconds: float) -> None:
        if self._begun is not None:
            self.busy.append(time.perf_counter() - self._begun)
            self._begun = None
        time.sleep(seconds)


class Planning:
    """Stands for a planner, at no cost: small motions, and plans with candidates ten times a second."""

    dynamics = None
    planner = SimpleNamespace(replan=REPLAN, horizon=HORIZON)

    def __init__(self, task, candidates: int = CANDIDATES, members: int = 1) -> None:
        self.task, self.count, self.members, self.latest = task, candidates, members, None
        self.spread = np.linspace(0.0, 0.2, HORIZON + 1)[:, None] * np.arange(max(candidates, 1))[:, None, None]

    def reset(self, seed: int) -> None:
        self.latest = None

    def plan(self, state) -> Plan:
        y = state.y + self.spread
        turns = 8.0 * (state.time + PERIOD * np.arange(HORIZON))[:, None]
        plan = Plan(time=state.time, dt=PERIOD, controls=0.3 * np.sin(turns + np.arange(self.task.robot.nu)), cost=1.0)
        if self.count:
            costs = np.arange(float(len(y)))
            plan = dataclasses.replace(plan, prediction=y[: self.members], candidates=y, candidate_costs=costs)
        self.latest = plan
        return plan

    def control(self, state) -> np.ndarray:
        if self.latest is None or self.latest.step_at(state.time) >= REPLAN:
            self.plan(state)
        return self.latest.control(state.time)


def humanoid():
    """humanoid-walk, controlled at 50 Hz."""
    task = robots.load("humanoid-walk")
    return dataclasses.replace(task, robot=dataclasses.replace(task.robot, dt=PERIOD))


def time_steps(url: str, folder: Path, blocks: int, steps: int) -> Table:
    """The loop's steps, watched and not, in turn."""
    task, busy, offers, dropped = humanoid(), {False: [], True: []}, [], 0
    offer = Audience.offer

    def timed(self, frame) -> None:
        begun = time.perf_counter()
        offer(self, frame)
        offers.append(time.perf_counter() - begun)

    Audience.offer = timed
    for block in range(2 * blocks):
        watched = block % 2 == 1
        plant = Timed(sim.make("mujoco", task))
        watching = [LiveView(url, f"block {block}"), Recorder(folder / f"{block}.rrd", "x")] if watched else []
        episode = loop.run(
            plant,
            Planning(task),
            task=task,
            duration=steps * PERIOD,
            clock=plant.clock,
            observers=watching,
            compensate=False,
        )
        for observer in watching:
            observer.close()
        busy[watched] += plant.busy
        dropped += sum(episode.dropped_frames.values())
    Audience.offer = offer
    table = Table(title=f"Step of the loop in us, {blocks} blocks of {steps} steps each way; frames dropped: {dropped}")
    for column in ("", "median", "99 %", "99.9 %", "worst"):
        table.add_column(column, justify="left" if not column else "right")
    rows = {"unwatched": busy[False], "watched": busy[True], "handing over to observers": offers}
    quantiles = {name: 1e6 * np.percentile(values, [50, 99, 99.9, 100]) for name, values in rows.items()}
    quantiles["added (watched - unwatched)"] = quantiles["watched"] - quantiles["unwatched"]
    for name, values in quantiles.items():
        table.add_row(name, *(f"{value:.0f}" for value in values))
    table.caption = "asked: added at most 50 median, 1000 worst"
    return table


def bytes_per_frame(folder: Path, candidates: int, members: int = 1) -> float:
    """Growth of a recording per step."""
    task, sizes = humanoid(), []
    for steps in (1000, 3000):
        path = folder / f"{candidates}-{members}-{steps}.rrd"
        recorder = Recorder(path, "x")
        plant = sim.make("mujoco", task)
        loop.run(plant, Planning(task, candidates, members), task=task, duration=steps * PERIOD, observers=[recorder])
        recorder.check()
        recorder.close()
        sizes.append(path.stat().st_size)
    return (sizes[1] - sizes[0]) / 2000


class Unforeseeing:
    """Stands for `Foresight`, at no cost."""

    def __init__(self, task, members: int) -> None:
        self.curves = self.bounds = {}

    def follow(self, plan, time: float) -> None:
        pass

    def watch(self, plan, time: float, path) -> tuple:
        return ()

    def happened(self, time, y, faults) -> tuple:
        return ()


def digesting(name: str, members: int, horizon: int, replan: int, batch: int, steps: int = 600) -> float:
    """Time [us] for each of `steps` steps, `batch` at once, to compute what is drawn of them and of their plans."""
    task = robots.load(name)
    plant = sim.make("mujoco", task)
    states = [plant.reset(0)]
    dt, nu, ny = task.robot.dt, task.robot.nu, len(states[0].y)
    states += [plant.step(np.zeros(nu)) for _ in range(steps)]
    apart = (
        np.random.default_rng(0).normal(size=(members, horizon + 1, ny)) * np.linspace(0.0, 0.1, horizon + 1)[:, None]
    )
    drawing = digest.Digest(plant.scene(), task)
    list(drawing.geometry())
    spent, frames = 0.0, []
    for k, state in enumerate(states[1:]):
        timing = Timing(k + 1, 0.0, 0.0, 1.0, 0.0, 0.0, 0, 0, None)
        plan = Plan(states[k].time, dt, np.zeros((horizon, nu)), cost=1.0, prediction=states[k].y + apart)
        begun = time.perf_counter()
        frames.append(digest.Frame(state, np.zeros(nu), timing))
        if k % replan == 0:
            list(drawing.plan(plan, state, timing))
        if len(frames) == batch:
            list(drawing.steps(frames))
            frames = []
        spent += time.perf_counter() - begun
    return 1e6 * spent / steps


def time_foresight(rounds: int) -> Table:
    """What comparing plans with what happened costs in the run's process."""
    table = Table(
        title=f"Computing what is drawn, in us a step of the run's process, medians of {rounds} rounds in turn"
    )
    for column in ("", "without", "with comparison", "added"):
        table.add_column(column, justify="left" if not column else "right")
    real = digest.Foresight
    for name, members, horizon, replan in (
        ("humanoid-walk", 1, 40, 5),
        ("humanoid-walk", 20, 40, 5),
        ("cartpole-swingup", 1, 100, 1),
        ("cartpole-swingup", 20, 30, 1),
    ):
        spent: dict[bool, list[float]] = {False: [], True: []}
        for k in range(2 * rounds):
            digest.Foresight = real if k % 2 else Unforeseeing
            spent[bool(k % 2)].append(digesting(name, members, horizon, replan, batch=20))
        digest.Foresight = real
        without, compared = (statistics.median(spent[kind]) for kind in (False, True))
        what = f"{name}, E = {members}, H = {horizon}, a plan every {replan} steps"
        table.add_row(what, f"{without:.0f}", f"{compared:.0f}", f"{compared - without:.0f}")
    return table


def memory(url: str, folder: Path, minutes: float) -> tuple[float, float]:
    """Growth of this process, and of the processes that draw together, over a run of so many minutes [MB]."""
    task, me = humanoid(), psutil.Process()
    before = me.memory_info().rss
    watching = [LiveView(url, "memory"), Recorder(folder / "memory.rrd", "x")]
    first: list[int] = []
    last: list[int] = []

    class Memory:
        """Reads the memory that processes have."""

        draws = False

        def start(self, scene, task) -> None:
            pass

        def step(self, state, u, plan, timing) -> None:
            if timing.step % 250 == 0:
                drawing = [child.memory_info().rss for child in me.children() if "process" in " ".join(child.cmdline())]
                (first if timing.step < 1000 else last).append(sum(drawing))

        def end(self, episode) -> None:
            self.growth = (me.memory_info().rss - before) / 1e6

    observer = Memory()
    plant = sim.make("mujoco", task)
    loop.run(plant, Planning(task), task=task, duration=60.0 * minutes, observers=[*watching, observer])
    for drawing in watching:
        drawing.close()
    return observer.growth, (last[-1] - first[-1]) / 1e6


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=500, help="in a block")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the plant's time, for memory")
    args = parser.parse_args()
    console = Console(width=140)
    port = windows._free()
    url = f"rerun+http://127.0.0.1:{port}/proxy"
    server = windows._start(
        ["--serve-grpc", "--bind", "127.0.0.1", "--port", str(port), "--server-memory-limit", "200MB"]
    )
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            console.print(time_foresight(args.blocks))
            console.print(time_steps(url, folder, args.blocks, args.steps))
            for count, members in ((0, 1), (CANDIDATES, 1), (CANDIDATES, 8)):
                size = bytes_per_frame(folder, count, members)
                what = f"recording, {count} candidates, {members} members"
                console.print(f"{what}: {size:.0f} bytes a frame", "" if count else "(asked: 3000)")
            loop_mb, drawing_mb = memory(url, folder, args.minutes)
            console.print(f"memory after {args.minutes:g} min: the loop's process {loop_mb:+.0f} MB (asked: below 300)")
            console.print(f"the processes that draw {drawing_mb:+.0f} MB since their first seconds")
    finally:
        server.kill()


if __name__ == "__main__":
    main()
