"""trimtab beside judo-rai 0.1.0, on judo's own cartpole and cylinder_push models and costs.

judo runs as it ships in an environment of its own (its MuJoCo is older), in a process that answers requests; both are
measured in turn in one run. Set-up and run:

    python benchmarks/peer.py judo
    python benchmarks/judo.py --peer .venv-judo/bin/python
"""

import argparse
import time
from pathlib import Path

import mujoco
import numpy as np
from peer import Peer
from rich.console import Console
from rich.table import Table
from trimtab import robots
from trimtab.controllers.cem import CEM
from trimtab.controllers.predictive_sampling import PredictiveSampling
from trimtab.controllers.problem import Problem
from trimtab.robots.shaping import column
from trimtab.robots.task import Start, quadratic
from trimtab.sim.mujoco_dynamics import MujocoDynamics
from trimtab.sim.mujoco_simulator import MujocoSimulator


def smooth_l1(p: float):
    """sqrt(r^2 + p^2) - p, summed."""
    return lambda r: (np.sqrt(r * r + p * p) - p).sum(-1)


def _pusher_to_stand(y, u, t):
    """From the pusher to the place behind the cart from where it pushes towards the goal, the origin."""
    distance = column(np.sqrt((y.cart * y.cart).sum(-1)))
    return y.pusher - y.cart * (1.0 + 0.25 / distance)


TERMS = {
    "cartpole": (
        robots.Term("vertical", lambda y, u, t: column(np.cos(y.pole) - 1.0), smooth_l1(0.01), 10.0),
        robots.Term("centred", lambda y, u, t: column(y.cart), smooth_l1(0.1), 10.0),
        robots.Term("velocity", lambda y, u, t: y.velocity, quadratic, 0.1),
        robots.Term("control", lambda y, u, t: u, quadratic, 0.1),
    ),
    "cylinder_push": (
        robots.Term("pusher", _pusher_to_stand, quadratic, 0.5),
        robots.Term("cart", lambda y, u, t: y.cart, quadratic, 0.1),
    ),
}
READINGS = {
    "cartpole": (
        robots.Reading.qpos("cart", 0),
        robots.Reading.qpos("pole", 1),
        robots.Reading.qvel("velocity", 0, 1),
    ),
    "cylinder_push": (
        robots.Reading.qpos("pusher", 0, 1),
        robots.Reading.qpos("cart", 2, 3),
        robots.Reading.qvel("velocity", 0, 1, 2, 3),
    ),
}
REPLAN = {"cartpole": 1, "cylinder_push": 2}  # 40 ms in both; judo asks for 20 Hz, which its steps do not divide


def make_task(name: str, folder: str) -> robots.Task:
    """Judo's task in our vocabulary, its model read from judo's own file."""
    path = str(Path(folder) / f"{name}.xml")
    build = lambda: mujoco.MjSpec.from_file(path)  # noqa: E731
    dt = build().option.timestep
    robot = robots.Robot(name, build, READINGS[name], dt)
    return robots.Task(name, robot, lambda y, u: 0.0 * u[..., 0], TERMS[name], start=None, duration=4.0)


def starts(name: str, count: int) -> list[Start]:
    """Start states spread as judo's `reset` does."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        if name == "cartpole":
            found.append(Start(np.array([1.0, np.pi]) + rng.standard_normal(2), 0.1 * rng.standard_normal(2)))
        else:
            a, b = 2 * np.pi * rng.random(2)
            found.append(Start(np.array([np.cos(a), np.sin(a), 2 * np.cos(b), 2 * np.sin(b)]), np.zeros(4)))
    return found


def begin(plant: MujocoSimulator, start: Start):
    """The plant's state at `start`."""
    plant._compiled.begin(start)
    return plant._compiled.state()


def planner_for(kind, rollouts: int, horizon: int):
    """As judo plans: one iteration, four zero-order knots; CEM, unlike judo's, keeps its elites."""
    shared = {"samples": rollouts, "horizon": horizon, "iterations": 1, "first_iterations": 1, "knots": 4}
    return kind(**shared, spline="zero")


def our_plans(task, start: Start, kind, rollouts: int, count: int) -> list[float]:
    """Seconds of each plan from one state."""
    plant, dynamics = MujocoSimulator(task), MujocoDynamics(task)
    state, warm, times = begin(plant, start), None, []
    planner = planner_for(kind, rollouts, round(1.0 / task.robot.dt))
    rng = np.random.default_rng(0)
    for _ in range(count):
        begun = time.perf_counter()
        warm = planner.plan(Problem(dynamics, task, state, planner.horizon, rng), warm, rng)
        times.append(time.perf_counter() - begun)
    dynamics.close()
    return times


def our_cost(task, start: Start, kind, rollouts: int, seed: int) -> float:
    """Cost summed over 4 s of closed loop."""
    plant, dynamics = MujocoSimulator(task), MujocoDynamics(task)
    state, warm, cost = begin(plant, start), None, 0.0
    planner, rng = planner_for(kind, rollouts, round(1.0 / task.robot.dt)), np.random.default_rng(seed)
    limits = task.robot.control_limits
    for step in range(round(4.0 / task.robot.dt)):
        if step % REPLAN[task.name] == 0:
            warm = planner.plan(Problem(dynamics, task, state, planner.horizon, rng), warm, rng)
        u = np.clip(warm.control(state.time), *limits)
        state = plant.step(u)
        cost += float(task.cost(state.y, u, state.time))
    dynamics.close()
    return cost


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, help="the Python of judo's environment")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--plans", type=int, default=60, help="a round")
    parser.add_argument("--starts", type=int, default=10)
    args = parser.parse_args()
    peer, console = Peer(args.peer, "judo_peer.py"), Console()
    folder = peer.ask(do="models")
    tasks = {name: make_task(name, folder) for name in TERMS}
    table = Table(title="Plans per second (medians, predictive sampling, one iteration, horizon 1 s)")
    for heading in ("task", "rollouts", "trimtab", "judo", "ratio", "asked"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, task in tasks.items():
        start = starts(name, 1)[0]
        for rollouts in (32, 128):
            ours, theirs = [], []
            for _ in range(args.rounds):
                ours += our_plans(task, start, PredictiveSampling, rollouts, args.plans)[5:]
                theirs += peer.ask(
                    do="plans",
                    task=name,
                    planner="ps",
                    rollouts=rollouts,
                    qpos=start.qpos.tolist(),
                    qvel=start.qvel.tolist(),
                    plans=args.plans,
                )[5:]
            mine, judo = 1 / np.median(ours), 1 / np.median(theirs)
            asked = 1.8 if name == "cartpole" else 1.15
            table.add_row(name, str(rollouts), f"{mine:.0f}", f"{judo:.0f}", f"{mine / judo:.2f}", f"{asked:.2f}")
    console.print(table)
    table = Table(title=f"Closed-loop cost over 4 s, mean of {args.starts} starts, 32 rollouts (less is better)")
    for heading in ("task", "trimtab cem", "trimtab predictive", "judo ps", "judo cem", "judo mppi"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, task in tasks.items():
        ours = {kind: [] for kind in (CEM, PredictiveSampling)}
        theirs = {planner: [] for planner in ("ps", "cem", "mppi")}
        for seed, start in enumerate(starts(name, args.starts)):
            for kind in ours:
                ours[kind].append(our_cost(task, start, kind, 32, seed))
            for planner in theirs:
                theirs[planner].append(
                    peer.ask(
                        do="closed_loop",
                        task=name,
                        planner=planner,
                        rollouts=32,
                        qpos=start.qpos.tolist(),
                        qvel=start.qvel.tolist(),
                        seed=seed,
                        steps=round(4.0 / task.robot.dt),
                        replan=REPLAN[name],
                    )
                )
        table.add_row(name, *(f"{np.mean(costs):.1f}" for costs in (*ours.values(), *theirs.values())))
    console.print(table)


if __name__ == "__main__":
    main()
