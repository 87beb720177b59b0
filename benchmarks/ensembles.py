"""Our probabilistic ensembles beside mbrl-lib 0.2.0: epochs of training, and candidates' steps of planning, a second.

    python benchmarks/peer.py mbrl
    python benchmarks/ensembles.py --peer .venv-mbrl/bin/python      # without --peer: ours alone

5 networks of 4 x 200 SiLU units, with learned bounds of their variances; 5000 random steps of a cheetah (21 readings, 6
controls), of which both hold out the same tenth; batches of 256, Adam with weight decay. mbrl-lib runs on the CPU in an
environment of its own, in a process that answers requests; both are measured in turn in one run, on as many cores. On
one, both are bound to it, and what counts is the time that the processor spends on them. On more, mbrl-lib has as many
threads of torch's, and we as many of our own with one of torch's each, which is what the command line sets.

An epoch is one pass of all members over as many rows as there are to train on, 18 gradient steps, each member's rows
its own resampling; then one look at the rows held out by all members (ours: likelihood, mbrl-lib: squared error), and a
copy of what improved. Drawing and gathering batches counts; so do the norms of gradients that mbrl-lib always takes.

An evaluation is one of a planner's: 350 candidates of 15 steps, 20 particles each, TS-infinity; the reward, forward
speed less a tenth of the squared controls, is summed over steps, and the candidates' costs are the result.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy and SciPy load; our own threads divide the cores

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from peer import Peer
from rich.console import Console
from rich.table import Table
from trimtab import robots
from trimtab.controllers.problem import Problem
from trimtab.learners.ensemble import EnsembleSettings
from trimtab.learners.ensemble_dynamics import EnsembleDynamics
from trimtab.learners.learned_model import LearnedModel
from trimtab.robots.arrays import entry
from trimtab.robots.shaping import column
from trimtab.robots.task import Term, quadratic
from trimtab.sim.interface import State

ROWS, CANDIDATES, PARTICLES, HORIZON = 5000, 350, 20, 15
STEPS = CANDIDATES * PARTICLES * HORIZON
TASK = replace(
    robots.load("cheetah-run"),
    terms=(
        Term("slow", lambda y, u, t: column(-entry(y.com_velocity, 0)), norm=lambda r: r[..., 0]),
        Term("control", lambda y, u, t: u, norm=quadratic, weight=0.2),
    ),
)
SETTINGS = EnsembleSettings(hidden=(200,) * 4, batch=256, updates=1, patience=10**9)


class Ours:
    """Our ensemble, and the data for both."""

    def __init__(self) -> None:
        rng, ny, nu = np.random.default_rng(0), TASK.robot.layout.size, TASK.robot.nu
        self.y, self.u = rng.standard_normal((ROWS, ny)), rng.uniform(-1.0, 1.0, (ROWS, nu))
        self.y_next = self.y + 0.1 * rng.standard_normal((ROWS, ny))
        self.model = LearnedModel.of_ensemble(TASK.robot, rng, SETTINGS)
        self.held = self.model.regressor.held_out(ROWS)
        self.controls = rng.uniform(-1.0, 1.0, (CANDIDATES, HORIZON, nu))

    def part(self, which: np.ndarray) -> dict[str, list]:
        """Some of the rows, for a request."""
        return {"y": self.y[which].tolist(), "u": self.u[which].tolist(), "y_next": self.y_next[which].tolist()}

    def train(self, cores: int, epochs: int) -> list[float]:
        """Seconds of each epoch, the first left out: between two looks."""
        torch.set_num_threads(1)
        clock = _clock(cores)
        rng, ended = np.random.default_rng(0), []
        model = LearnedModel.of_ensemble(TASK.robot, rng, replace(SETTINGS, epochs=epochs + 1))
        encoding = model.encoding
        inputs, targets = encoding.tell(self.y, self.u), encoding.changes(self.y, self.y_next)
        model.regressor.fit(inputs, targets, rng, observe=lambda _: ended.append(clock()))
        return np.diff(ended).tolist()

    def plan(self, cores: int, evaluations: int) -> list[float]:
        """Seconds of each evaluation of the candidates, the first left out."""
        torch.set_num_threads(1)
        clock = _clock(cores)
        dynamics, rng, times = EnsembleDynamics(TASK, self.model, "tsinf", PARTICLES), np.random.default_rng(0), []
        problem = Problem(dynamics, TASK, State(0.0, self.y[0]), HORIZON, rng)
        for _ in range(evaluations + 1):
            begun = clock()
            problem.cost(self.controls)
            times.append(clock() - begun)
        return times[1:]


def _clock(cores: int) -> Callable[[], float]:
    return time.process_time if cores == 1 else time.perf_counter


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of mbrl-lib's environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, nargs="+", help="how many, in place of one, and of all")
    args = parser.parse_args()
    available = sorted(os.sched_getaffinity(0))
    ours, peer = Ours(), Peer(args.peer, "mbrl_peer.py") if args.peer else None
    shared = {
        "members": SETTINGS.members,
        "hidden": SETTINGS.hidden,
        "batch": SETTINGS.batch,
        "training": ours.part(~ours.held),
        "holdout": ours.part(ours.held),
        "controls": ours.controls.tolist(),
        "particles": PARTICLES,
        "speed": TASK.robot.layout["com_velocity"].start,
        "epochs": 4,
        "evaluations": 3,
    }
    table = Table(title="Epochs of training, and particles' steps of planning, a second")
    for heading in ("", "cores", "trimtab", "mbrl-lib", "ratio", "of rounds"):
        table.add_column(heading, justify="right" if heading else "left")
    for cores in args.cores or sorted({1, len(available)}):
        os.sched_setaffinity(0, available[:cores])
        for measure, measured, count, each in (
            ("train", ours.train, shared["epochs"], 1),
            ("plan", ours.plan, shared["evaluations"], STEPS),
        ):
            mine: list[list[float]] = []
            theirs: list[list[float]] = []
            for _ in range(args.rounds):
                mine.append(measured(cores, count))
                if peer:
                    theirs.append(peer.ask(measure=measure, cores=available[:cores], **shared)["times"])
            row = [f"{each / np.median(mine):,.4g}"]
            if peer:
                ratios = np.median(theirs, axis=1) / np.median(mine, axis=1)
                row += [f"{each / np.median(theirs):,.4g}", f"{np.median(theirs) / np.median(mine):.2f}"]
                row.append(f"{ratios.min():.2f} to {ratios.max():.2f}")
            table.add_row(measure, str(cores), *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
