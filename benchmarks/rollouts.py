"""Batched rollouts of robots in closed form, compiled, against raw `mujoco.rollout` of the same robots.

Both roll out the same candidates from the same state and count physics steps; MuJoCo writes states alone, no sensors.
Measured in turn, so that a noisy machine disturbs both alike; "agree" is the largest difference of the readings over
the first ten control steps. Run: `python benchmarks/rollouts.py`; others by `TASK:DYNAMICS`.
"""

import argparse
import time

import mujoco
import mujoco.rollout
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab import robots, sim
from trimtab.robots import plugins
from trimtab.sim.interface import available_cores

CASES = ("cartpole-swingup:casadi", "quadrotor-waypoints:casadi", "panda-reach:pinocchio")


def raw_model(robot: robots.Robot) -> mujoco.MjModel:
    """The robot's model without sensors."""
    spec = robot.spec()
    for sensor in list(spec.sensors):
        spec.delete(sensor)
    return spec.compile()


def measure(case: str, candidates: int, steps: int, rounds: int, threads: int) -> tuple[np.ndarray, int, float]:
    """Seconds of both (rounds, 2), ours first; physics steps in a control step; and how far the readings differ."""
    name, _, plugin = case.partition(":")
    task = robots.load(name)
    plant = sim.make("mujoco", task)
    state = plant.reset(0)
    low, high = np.nan_to_num(task.robot.control_limits, posinf=1.0, neginf=-1.0)
    controls = np.random.default_rng(0).uniform(0.3 * low, 0.3 * high, (candidates, steps, len(low)))

    ours = plugins.find("dynamics", plugin)(task, threads=threads)
    few = controls[:8, :10]
    expected = sim.dynamics("mujoco", task).rollout(state, few, np.random.default_rng(0)).y
    apart = float(np.abs(ours.rollout(state, few).y - expected).max())

    model = raw_model(task.robot)
    substeps = round(task.robot.dt / model.opt.timestep)
    size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    pool = mujoco.rollout.Rollout(nthread=threads if threads > 1 else 0)
    datas, models = [mujoco.MjData(model) for _ in range(threads)], [model] * candidates
    initial = np.tile(state.x[:size], (candidates, 1))
    repeated = np.repeat(controls, substeps, axis=1)
    states = np.empty((candidates, steps * substeps, size))
    chunk = max(1, candidates // (4 * threads))

    def theirs() -> None:
        pool.rollout(
            models,
            datas,
            initial,
            repeated,
            state=states,
            skip_checks=True,
            nstep=steps * substeps,
            chunk_size=chunk,
        )

    seconds = np.empty((rounds + 1, 2))
    for row in seconds:
        for i, rollout in enumerate((lambda: ours.rollout(state, controls), theirs)):
            begun = time.perf_counter()
            rollout()
            row[i] = time.perf_counter() - begun
    pool.close()
    ours.close()
    return seconds[1:], substeps, apart


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=CASES, help="TASK:DYNAMICS")
    parser.add_argument("--candidates", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=available_cores())
    args = parser.parse_args()
    table = Table(
        title=f"{args.candidates} x {args.steps} control steps, {args.threads} threads, physics steps (medians)"
    )
    for column in ("task", "dynamics", "ours [M/s]", "mujoco [M/s]", "ratio", "quartiles", "agree"):
        table.add_column(column, justify="left" if column in ("task", "dynamics") else "right", no_wrap=True)
    for case in args.cases:
        seconds, substeps, apart = measure(case, args.candidates, args.steps, args.rounds, args.threads)
        steps = args.candidates * args.steps * substeps
        ours, theirs = np.median(seconds, 0)
        low, middle, high = np.percentile(seconds[:, 1] / seconds[:, 0], (25, 50, 75))
        table.add_row(
            *case.split(":"),
            f"{1e-6 * steps / ours:.1f}",
            f"{1e-6 * steps / theirs:.3f}",
            f"{middle:.0f}",
            f"{low:.0f} - {high:.0f}",
            f"{apart:.0e}",
        )
    Console(width=max(110, Console().width)).print(table)


if __name__ == "__main__":
    main()
