"""Tree search: published returns on continuous cart-pole, scores, and simulations a second beside mctx.

    python benchmarks/mcts.py cartpole     # returns by iterations, beside those of POLY-HOOT's authors
    python benchmarks/mcts.py scores       # shipped scenarios, seeds 0 to 4
    python benchmarks/mcts.py speed --peer .venv-mctx/bin/python

An iteration is a simulation: a walk down the tree, one new node, one rollout. Cart-pole is Gymnasium's with a force of
up to 30 N, 150 steps, discount 0.99 (at best 77.8548); means of 10 runs. Searches whose rollouts apply no force stand
next to harder ones: rollouts of random controls, and nothing kept from step to step.

mctx 0.0.71 runs on the CPU, in an environment of its own, in a process that answers requests; both search the same
pendulum, with 11 controls and 256 simulations, in turn in one run. Set-up:

    python benchmarks/peer.py mctx
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from peer import Peer
from rich.console import Console
from rich.table import Table
from trimtab import robots, sim
from trimtab.controllers import MPC, run
from trimtab.controllers.mcts import MCTS
from trimtab.controllers.problem import Problem
from trimtab.launch.scenario import find, resolve
from trimtab.robots import pendulum

ITERATIONS = (6, 14, 20, 30, 45)
PUBLISHED = {
    "poly_hoot": (46.9, 76.8, 77.9, 77.9, 77.9),
    "hoot": (51.2, 77.9, 77.9, 77.9, 77.9),
    "puct": (10.8, 39.2, 48.9, 72.3, 77.9),
    "discretised_uct": (9.9, 71.3, 73.2, 77.9, 77.9),
}
SHARED = {"horizon": 50, "segment": 1, "batch": 1, "objective": "reward", "discount": 0.99}
VARIANTS = {
    "hoot": {"rule": "hoot"},
    "uct, 11 controls": {"rule": "uct", "levels": 11},
    "uct, widening": {"rule": "uct"},
    "puct, 11 controls": {"rule": "puct", "levels": 11, "first_play": 0.0},
}
LEAVES = {"rest": {"policy": "rest"}, "random, nothing kept": {"policy": "random", "reuse": False}}
ASKED = {
    "pendulum-swingup-mcts": 800,
    "cartpole-swingup-mcts": 750,
    "acrobot-swingup-mcts": None,
    "reacher-easy-mcts": None,
}


def cartpole_return(settings: dict, iterations: int, seeds: range) -> float:
    """Mean discounted return."""
    task = robots.load("continuous_cartpole-balance")
    plant, dynamics = sim.make("casadi", task), sim.dynamics("casadi", task)
    controller = MPC(MCTS(simulations=iterations, **SHARED, **settings), dynamics, task)
    found = []
    for seed in seeds:
        reward = run(plant, controller, task=task, seed=seed).reward
        found.append(float(reward @ 0.99 ** np.arange(len(reward))))
    dynamics.close()
    return float(np.mean(found))


def cartpole(args: argparse.Namespace) -> None:
    """Prints returns by iterations."""
    table = Table(title="Continuous cart-pole: discounted return, mean of 10 runs, by iterations a step")
    for heading in ("search", *map(str, ITERATIONS)):
        table.add_column(heading, justify="left" if heading == "search" else "right")
    published = PUBLISHED
    if args.reference:
        with args.reference.open() as file:
            rows = list(csv.DictReader(file))
        published = {name: [float(row[name]) for row in rows] for name in rows[0] if name != "iterations"}
    for name, values in published.items():
        table.add_row(f"published: {name}", *(f"{value:.1f}" for value in values))
    for leaf, more in LEAVES.items():
        for name, settings in VARIANTS.items():
            means = [cartpole_return(settings | more, n, range(10)) for n in ITERATIONS]
            table.add_row(f"trimtab {name}; {leaf}", *(f"{mean:.1f}" for mean in means))
    Console(width=120).print(table)


def scores(args: argparse.Namespace) -> None:
    """Prints returns of the shipped scenarios."""
    table = Table(title=f"Return over an episode, virtual clock, seeds {args.first_seed} to {args.first_seed + 4}")
    for heading in ("scenario", "mean", "each", "asked", "plan [ms]", "simulations/s"):
        table.add_column(heading, justify="left" if heading == "scenario" else "right")
    for name, asked in ASKED.items():
        setup = resolve(find(name))
        plant, dynamics = sim.make(setup.simulator, setup.task), sim.dynamics(setup.dynamics, setup.task)
        controller = MPC(setup.planner, dynamics, setup.task)
        found, took = [], []
        for seed in range(args.first_seed, args.first_seed + 5):
            episode = run(plant, controller, task=setup.task, seed=seed, duration=setup.duration)
            found.append(episode.return_)
            took += episode.plan_ms.tolist()
        plant.close()
        dynamics.close()
        ms = float(np.median(took))
        each = " ".join(f"{value:.0f}" for value in found)
        rate = f"{1e3 * setup.planner.simulations / ms:,.0f}"
        table.add_row(name, f"{np.mean(found):.0f}", each, str(asked or ""), f"{ms:.1f}", rate)
    Console(width=120).print(table)


def pendulum_numbers() -> dict[str, float]:
    """What the peer's pendulum is made of."""
    model = robots.load("pendulum-swingup").robot.model
    pole, hinge = model.body("pole"), int(model.jnt_dofadr[0])
    lever, mass = float(pole.ipos[2]), float(pole.mass[0])
    energy = pendulum._Energy()
    return {
        "weight": float(-model.opt.gravity[2]) * mass * lever,
        "inertia": float(pole.inertia[1]) + mass * lever * lever + float(model.dof_armature[hinge]),
        "damping": float(model.dof_damping[hinge]),
        "gear": float(model.actuator_gear[0, 0]),
        "dt": pendulum.ROBOT.dt,
        "upright": pendulum.UPRIGHT,
        "per_speed": energy.per_speed,
        "energy": 0.3,
        "height": 0.3,
        "velocity": 0.003,
    }


def our_searches(planner: MCTS, states: list, count: int) -> list[float]:
    """Seconds of searching once from each of `states`, `count` times."""
    task = robots.load("pendulum-swingup")
    dynamics, rng, times = sim.dynamics("casadi", task), np.random.default_rng(0), []
    planner.check(dynamics, task)
    for k in range(count + 1):
        begun = time.perf_counter()
        for state in states:
            planner.plan(Problem(dynamics, task, state, planner.horizon, rng), None, rng)
        if k:
            times.append(time.perf_counter() - begun)
    dynamics.close()
    return times


def speed(args: argparse.Namespace) -> None:
    """Prints simulations a second, ours and mctx's."""
    simulations, steps, discount = 256, 60, 0.99
    peer, task = Peer(args.peer, "mctx_peer.py"), robots.load("pendulum-swingup")
    plant = sim.make("casadi", task)
    shared = {"horizon": steps, "segment": 1, "simulations": simulations, "levels": 11, "leaf": "value"}
    planners = {
        f"{name}, {batch} at once": MCTS(**shared, discount=discount, rule=rule, prior="uniform", batch=batch, **more)
        for name, rule, more in (("puct", "puct", {"first_play": 0.0}), ("uct", "uct", {}))
        for batch in (1, 8)
    }
    table = Table(title=f"Simulations a second on the pendulum, 11 controls, {simulations} simulations (medians)")
    for heading in ("roots", "mctx", *planners, "least ratio"):
        table.add_column(heading, justify="right")
    for roots in (1, 32):
        states = [plant.reset(seed) for seed in range(roots)]
        theirs: list[float] = []
        ours: dict[str, list[float]] = {name: [] for name in planners}
        for _ in range(args.rounds):
            theirs += peer.ask(
                pendulum=pendulum_numbers(),
                states=[state.y.tolist() for state in states],
                actions=11,
                steps=steps,
                discount=discount,
                simulations=simulations,
                searches=10,
            )["times"]
            for name, planner in planners.items():
                ours[name] += our_searches(planner, states, 10)
        rates = [roots * simulations / float(np.median(t)) for t in (theirs, *ours.values())]
        table.add_row(str(roots), *(f"{rate:,.0f}" for rate in rates), f"{min(rates[1:]) / rates[0]:.1f}")
    Console(width=120).print(table)


def main() -> None:
    """Runs one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"cartpole": cartpole, "scores": scores, "speed": speed}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--peer", default=".venv-mctx/bin/python", help="the Python of mctx's environment")
    parser.add_argument("--reference", type=Path, help="a table of published returns, by iterations, as CSV")
    parser.add_argument("--first-seed", type=int, default=0, help="other seeds, for tuning")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    parts[args.part](args)


if __name__ == "__main__":
    main()
