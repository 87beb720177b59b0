"""How much of planning is physics: raw `mujoco.rollout` time over whole plan time, for the same candidates and steps.

The ceiling is MuJoCo's own thread pool on preallocated arrays, threads = cores, measured in turn with the plans, so
that a noisy machine disturbs both alike. Run: `python benchmarks/planning.py`.
"""

import argparse
import itertools
import time

import mujoco
import mujoco.rollout
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab import robots, sim
from trimtab.controllers.cem import CEM
from trimtab.controllers.problem import Problem
from trimtab.sim.interface import available_cores

CASES = (("cheetah-run", 64, 40, 0.95), ("cartpole-swingup", 128, 100, 0.95), ("reacher-easy", 32, 30, 0.88))


class RawRollout:
    """`mujoco.rollout` and nothing else: the same model, states, candidates and steps."""

    def __init__(self, task: robots.Task, samples: int, horizon: int, threads: int) -> None:
        self.model = task.robot.spec().compile()
        steps = horizon * round(task.robot.dt / self.model.opt.timestep)
        physics = mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.datas = [mujoco.MjData(self.model) for _ in range(threads)]
        self.models = [self.model] * samples
        self.initial = np.empty((samples, physics))
        self.control = np.empty((samples, steps, self.model.nu))
        self.state = np.empty((samples, steps, physics))
        self.sensors = np.empty((samples, steps, self.model.nsensordata))

    def seconds(self, state: sim.State, controls: np.ndarray) -> float:
        """Time of one rollout of `controls` (N, H, nu) from `state`."""
        self.initial[:] = state.x[: self.initial.shape[1]]
        self.control[:] = np.repeat(controls, self.control.shape[1] // controls.shape[1], axis=1)
        begun = time.perf_counter()
        self.pool.rollout(
            self.models,
            self.datas,
            self.initial,
            self.control,
            state=self.state,
            sensordata=self.sensors,
            skip_checks=True,
            nstep=self.control.shape[1],
            chunk_size=max(1, len(self.models) // (4 * len(self.datas))),
        )
        return time.perf_counter() - begun


class Spy:
    """Passes dynamics on and keeps the candidates that the planner asked for."""

    def __init__(self, dynamics: sim.Dynamics) -> None:
        self.dynamics, self.dt = dynamics, dynamics.dt
        self.asked: list[np.ndarray] = []

    def rollout(self, state, controls, rng):
        self.asked.append(controls.copy())
        return self.dynamics.rollout(state, controls, rng)


def measure(
    name: str, samples: int, horizon: int, iterations: int, rounds: int, seconds: float, threads: int
) -> tuple[float, float]:
    """Seconds of a plan, and of the raw rollouts in it: medians of at least `rounds` and `seconds`, taken in turn."""
    task = robots.load(name)
    plant, dynamics = sim.make("mujoco", task), sim.dynamics("mujoco", task)
    raw = RawRollout(task, samples, horizon, threads)
    planner = CEM(samples=samples, horizon=horizon, iterations=iterations, first_iterations=iterations)
    rng = np.random.default_rng(0)
    state, warm = plant.reset(0), None
    plan_times, raw_times = [], []
    over = time.perf_counter() + seconds
    for k in itertools.count():
        if k >= rounds and time.perf_counter() > over:
            break
        search = np.random.default_rng(k)
        begun = time.perf_counter()
        warm_next = planner.plan(Problem(dynamics, task, state, horizon, rng), warm, search)
        plan_times.append(time.perf_counter() - begun)
        # The same plan once more, to know its candidates; then those, raw.
        spy = Spy(dynamics)
        planner.plan(Problem(spy, task, state, horizon, rng), warm, np.random.default_rng(k))
        raw_times.append(sum(raw.seconds(state, controls) for controls in spy.asked))
        warm = warm_next
        state = plant.step(warm.control(state.time))
    dynamics.close()
    raw.pool.close()
    return float(np.median(plan_times[3:])), float(np.median(raw_times[3:]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60, help="at least")
    parser.add_argument("--seconds", type=float, default=10.0, help="at least, a task")
    args = parser.parse_args()
    threads = available_cores()
    table = Table(title=f"Planning with CEM, {args.iterations} iterations, {threads} threads (medians)")
    for column in ("task", "candidates x steps", "plan [ms]", "raw rollout [ms]", "share", "asked"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, samples, horizon, asked in CASES:
        plan, raw = measure(name, samples, horizon, args.iterations, args.rounds, args.seconds, threads)
        share = f"{raw / plan:.3f}"
        table.add_row(name, f"{samples} x {horizon}", f"{1e3 * plan:.2f}", f"{1e3 * raw:.2f}", share, f"{asked:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
