"""What a learned value function is worth to a planner: MPC alone, at half its horizon, and with the value there.

    python benchmarks/guided.py cheetah-run runs/learners/sac-cheetah-run-0 --seeds 0 1 2
    python benchmarks/guided.py walker-walk runs/learners/sac-walker-walk-0 --policy

Plans are made on the plant's own model with the scenario's planner. Those of half its horizon, with the value and
without, take as many samples as fit into the time of MPC alone at the whole one, found by trying beforehand. Prints
returns and planning times of each way, episode by episode in turn, and returns of the policy alone.
"""

import argparse
import dataclasses
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab import sim
from trimtab.controllers import MPC, run
from trimtab.controllers.guide import load
from trimtab.controllers.policy import PolicyController
from trimtab.launch import scenario

TRIED = 25
"""Plans that the time of a way to plan is measured by."""


def main() -> None:
    """Runs all ways, and prints what they score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--horizon", type=int, help="control steps, instead of the scenario's")
    parser.add_argument("--duration", type=float, help="of an episode [s]")
    parser.add_argument("--policy", action="store_true", help="try the policy's actions too")
    args = parser.parse_args()
    setup = scenario.resolve(scenario.find(args.scenario))
    whole = dataclasses.replace(setup.planner, horizon=args.horizon or setup.planner.horizon)
    knots = max(2, whole.knots // 2)
    half = dataclasses.replace(whole, horizon=max(2, whole.horizon // 2), knots=knots)
    valued = dataclasses.replace(half, value=args.run, policy=args.run if args.policy else "")
    limit = plan_ms(setup, whole)
    alone, fitted = (dataclasses.replace(way, samples=fitting(setup, way, limit)) for way in (half, valued))
    ways = {
        f"MPC alone, {whole.horizon} steps, {whole.samples} samples": whole,
        f"MPC alone, {half.horizon} steps, {alone.samples} samples": alone,
        f"with the value, {half.horizon} steps, {fitted.samples} samples": fitted,
    }
    found: dict[str, list[Any]] = {name: [] for name in [*ways, "policy alone"]}
    for seed in args.seeds:
        for name, planner in ways.items():
            found[name].append(episode(setup, MPC(planner, dynamics(setup), setup.planned), seed, args.duration))
        guide = load(args.run, setup.planned)
        controller = PolicyController(guide.action, setup.task, guide.period)
        found["policy alone"].append(episode(setup, controller, seed, args.duration))
    report(args.scenario, found)


def dynamics(setup: Any) -> Any:
    """The model that plans are made on."""
    return sim.dynamics(setup.dynamics, setup.planned)


def episode(setup: Any, controller: Any, seed: int, duration: float | None) -> Any:
    """An episode in the scenario's plant."""
    plant = sim.make(setup.simulator, setup.task)
    try:
        return run(plant, controller, task=setup.task, seed=seed, duration=duration or setup.duration)
    finally:
        plant.close()


def plan_ms(setup: Any, planner: Any) -> float:
    """Median time of a plan [ms], in an episode's first steps."""
    controller = MPC(planner, dynamics(setup), setup.planned)
    steps = TRIED * planner.replan
    return float(np.median(episode(setup, controller, 100, steps * setup.task.robot.dt).plan_ms[3:]))


def fitting(setup: Any, planner: Any, limit: float) -> int:
    """Samples with which a plan takes about `limit` [ms], at least 16."""
    samples = planner.samples
    for _ in range(3):
        took = plan_ms(setup, dataclasses.replace(planner, samples=samples))
        samples = max(16, int(samples * min(2.0, limit / took)))
    return samples


def report(name: str, found: dict[str, list[Any]]) -> None:
    """Prints returns and times."""
    table = Table(title=name)
    for heading in ("", "returns", "mean", "plan p50 [ms]"):
        table.add_column(heading, justify="left" if not heading else "right")
    for way, episodes in found.items():
        returns = [each.return_ for each in episodes]
        times = np.concatenate([each.plan_ms for each in episodes])
        shown = f"{np.median(times):.1f}" if len(times) else "-"
        table.add_row(way, " ".join(f"{value:.0f}" for value in returns), f"{np.mean(returns):.0f}", shown)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
