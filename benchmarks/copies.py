"""Plants stepped together: ours against raw `mujoco.rollout` of the same robots, and against Gymnasium's vector envs.

Every contestant takes a control for each copy, and gives back what came of it, call by call, as a learner does: rates
are in thousands of control steps a second, all copies counted. Controls are random, of changing sign, so that robots
stay about where they are. `rollout` is MuJoCo's own thread pool, which writes states alone, from which the next call
begins; `rollout x100` takes 100 steps in a call, so that calls cost nothing: what the machine can do. Gymnasium steps
HalfCheetah, whose control steps are five physics steps: there, ours holds each control for five, and rates are of
physics steps. Last, on a cheetah and in microseconds: a decision of a learner's collector, and drawing a batch of 8192
from a million rows.

Measured in turn, in many short rounds, of which the best count: what else goes on only slows a round down.
Run: `python benchmarks/copies.py`.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator

import gymnasium
import mujoco
import mujoco.rollout
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab import robots, sim
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.learners.collection import Collector
from trimtab.learners.interface import Environment
from trimtab.learners.replay import Replay
from trimtab.sim.interface import available_cores

FRAMES = 5
"""Physics steps in a control step of Gymnasium's HalfCheetah."""

Contestant = tuple[Callable[[], object], float]
"""What to call, and how many steps a call takes."""


def ours(name: str, count: int, threads: int, repeat: int = 1) -> Contestant:
    """Our copies."""
    task = robots.load(name)
    copies = sim.copies("mujoco", task, count, threads)
    for i in range(count):
        copies.reset(i, i)
    turns = _turns(_controls(task, count))
    return lambda: copies.step(next(turns), repeat), count * repeat


def raw(name: str, count: int, threads: int, steps: int) -> Contestant:
    """`mujoco.rollout` by as many control steps in a call."""
    task = robots.load(name)
    model = task.robot.model
    kept = sim.copies("mujoco", task, count)
    for i in range(count):
        kept.reset(i, i)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    state = np.array([s.x[:size] for s in kept.states() if s.x is not None])
    substeps = steps * round(task.robot.dt / model.opt.timestep)
    u = np.repeat(_controls(task, count)[:, None], substeps, axis=1)
    u *= np.where(np.arange(substeps) // (substeps // steps) % 2, -1.0, 1.0)[:, None]
    turns = _turns(u) if steps % 2 else itertools.repeat(u)
    after = np.empty((count, substeps, size))
    pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
    datas, models = [mujoco.MjData(model) for _ in range(threads)], [model] * count
    chunk = max(1, count // (4 * threads))

    def step() -> None:
        pool.rollout(models, datas, state, next(turns), state=after, skip_checks=True, nstep=substeps, chunk_size=chunk)
        state[:] = after[:, -1]

    return step, count * steps


def single(name: str, count: int) -> Contestant:
    """Single simulators in a loop."""
    task = robots.load(name)
    plants = [sim.make("mujoco", task) for _ in range(count)]
    for i, plant in enumerate(plants):
        plant.reset(i)
    turns = _turns(_controls(task, count))
    return lambda: [plant.step(v) for plant, v in zip(plants, next(turns), strict=True)], count


def vector(kind: str, count: int) -> Contestant:
    """Gymnasium's vector environment; physics steps."""
    mode = gymnasium.VectorizeMode(kind)
    envs = gymnasium.make_vec("HalfCheetah-v5", num_envs=count, vectorization_mode=mode)
    envs.reset(seed=0)
    turns = _turns(np.random.default_rng(0).uniform(-1.0, 1.0, (count, 6)).astype(np.float32))
    return lambda: envs.step(next(turns)), count * FRAMES


def _turns(u: np.ndarray) -> Iterator[np.ndarray]:
    return itertools.cycle((u, -u))


def _controls(task: robots.Task, count: int) -> np.ndarray:
    low, high = task.robot.control_limits
    return np.random.default_rng(0).uniform(low, high, (count, task.robot.nu))


def decision(name: str, count: int, threads: int, repeat: int) -> Contestant:
    """Our collector: copies, rewards, terminations and episodes; a call is a decision in each copy."""
    task = robots.load(name)
    period = repeat * task.robot.dt
    where = Environment(task, "mujoco", period, task.duration, planner=RandomShooting())
    collector = Collector(where, count, 0, threads)
    turns = _turns(_controls(task, count))
    return lambda: collector.step(next(turns)), 1


def replay_of(name: str, kept: int = 1_000_000) -> Replay:
    """A store of so many rows."""
    robot = robots.load(name).robot
    replay, rng = Replay(robot, kept), np.random.default_rng(0)
    y = rng.normal(size=(kept, robot.layout.size))
    ends = np.arange(1, kept + 1) % 1000 == 0
    u = rng.normal(size=(kept, robot.nu))
    replay.extend(y, u, y, rng.normal(size=kept), np.zeros(kept, bool), ends)
    return replay


def draws(replay: Replay, n_step: int, rows: int = 8192) -> Contestant:
    """Drawing so many rows, as an update of a learner does."""
    rng = np.random.default_rng(1)
    return lambda: replay.sample_returns((rows,), n_step, 0.99, rng), 1


def measure(contestants: dict[str, Contestant], rounds: int, seconds: float) -> dict[str, float]:
    """Thousands of steps a second of each, in the best of rounds of about so many seconds."""
    calls = {}
    for name, (step, _) in contestants.items():
        begun = time.perf_counter()
        for _ in range(3):
            step()
        calls[name] = max(1, round(3 * seconds / (time.perf_counter() - begun)))
    rates = dict.fromkeys(contestants, 0.0)
    for _ in range(rounds):
        for name, (step, steps) in contestants.items():
            begun = time.perf_counter()
            for _ in range(calls[name]):
                step()
            rates[name] = max(rates[name], 1e-3 * steps * calls[name] / (time.perf_counter() - begun))
    return rates


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["cheetah-run", "cartpole-swingup"])
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.005, help="that each contestant takes in a round")
    given = parser.parse_args()
    console, many = Console(), given.threads
    for name in given.tasks:
        rows = {}
        for count in given.copies:
            contestants = {"ours, 1 thread": ours(name, count, 1), f"ours, {many}": ours(name, count, many)}
            contestants |= {"rollout, 1": raw(name, count, 1, 1), f"rollout, {many}": raw(name, count, many, 1)}
            contestants |= {f"rollout x100, {many}": raw(name, count, many, 100), "single": single(name, count)}
            rows[count] = measure(contestants, given.rounds, given.seconds)
        _show(console, f"{name}: thousands of control steps a second", rows)
    rows = {}
    for count in given.copies:
        contestants = {"ours, 1 thread": ours("cheetah-run", count, 1, FRAMES)}
        contestants[f"ours, {many}"] = ours("cheetah-run", count, many, FRAMES)
        contestants["SyncVectorEnv"] = vector("sync", count)
        if count <= 8:  # it is a process for each
            contestants["AsyncVectorEnv"] = vector("async", count)
        rows[count] = measure(contestants, given.rounds, given.seconds)
    _show(console, "cheetah beside Gymnasium's HalfCheetah: thousands of physics steps a second", rows)
    calls = {f"a decision of two steps, {n} copies": decision("cheetah-run", n, many, 2) for n in given.copies}
    replay = replay_of("cheetah-run")
    calls |= {f"drawing 8192 rows, returns of {n}": draws(replay, n) for n in (1, 3, 5)}
    table = Table("of a learner on cheetah-run", "microseconds")
    for what, rate in measure(calls, given.rounds, given.seconds).items():
        table.add_row(what, f"{1e3 / rate:.0f}")
    console.print(table)


def _show(console: Console, title: str, rows: dict[int, dict[str, float]]) -> None:
    names = max(rows.values(), key=len)
    table = Table("copies", *names, title=title)
    for count, rates in rows.items():
        table.add_row(str(count), *(f"{rates[name]:.1f}" if name in rates else "" for name in names))
    console.print(table)


if __name__ == "__main__":
    main()
