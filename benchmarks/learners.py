"""Returns of learners over control steps and seeds, beside what others publish.

    python benchmarks/learners.py                   # PETS: cart-pole, pendulum and reacher, seeds 0 to 4
    python benchmarks/learners.py --learner sac     # SAC: seven tasks, seeds 0 to 2
    python benchmarks/learners.py --learner sac --tasks cheetah-run --seeds 0 1 2 --steps 200000

Runs that the folder holds already are gone on with, if they are too short, and otherwise only read; `--read` only
reads. Prints, for each task, at how many control steps each seed first reaches the return asked for, and the last
returns as mean, standard deviation and interquartile mean with its 95 % bootstrap interval over seeds; draws the
curves. Returns of PETS are those of training's episodes, those of SAC evaluations: the last ones by `trimtab eval`, ten
episodes a seed. What is published is in `dm_control_returns.csv`: mean returns of SAC, DreamerV3 and TD-MPC2 after so
many control steps, from the result files of the repository nicklashansen/tdmpc2.
"""

import argparse
import csv
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab.controllers.files import replacing
from trimtab.learners import logs
from trimtab.learners.evaluation import summary
from trimtab.learners.run_folder import RunFolder

ASKED = {
    "pets": {"cartpole-swingup": 800.0, "pendulum-swingup": 700.0, "reacher-easy": 900.0, "cheetah-run": math.nan},
    "sac": {
        "cartpole-swingup": 820.0,
        "ball_in_cup-catch": 950.0,
        "reacher-easy": 600.0,
        "finger-spin": 760.0,
        "cheetah-run": 320.0,
        "walker-walk": 700.0,
        "pendulum-swingup": 100.0,
    },
}
"""The return asked for, by learner and task."""

STEPS = {"pets": {"cartpole-swingup": 10_000, "pendulum-swingup": 4_000, "reacher-easy": 10_000, "cheetah-run": 40_000}}
"""Control steps of a run, where they are not `USUAL`; an episode of each of these tasks has 1000."""
USUAL = 100_000
EPISODES = 10
"""Of an evaluation."""

PUBLISHED = {"sac": ("SAC", ":", "o"), "dreamerv3": ("DreamerV3", "--", "s"), "tdmpc2": ("TD-MPC2", "-.", "^")}


@dataclass(frozen=True)
class Runs:
    """What the runs of a task came to.

    Attributes:
        curves: of each seed, control steps and returns (2, n).
        last: of each seed, the last return.
        minutes: the longest of them took.
    """

    curves: list[np.ndarray]
    last: np.ndarray
    minutes: float


def main() -> None:
    """Trains what is missing, prints the table, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learner", choices=sorted(ASKED), default="pets")
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--steps", type=int, help="control steps of each run")
    parser.add_argument("--out", type=Path, default=Path("runs/learners"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--read", action="store_true", help="train nothing")
    args = parser.parse_args()
    learner, tasks = args.learner, args.tasks or [t for t, asked in ASKED[args.learner].items() if math.isfinite(asked)]
    if unknown := set(tasks) - ASKED[learner].keys():
        parser.error(f"no such task for {learner}: {', '.join(unknown)}; there are: {', '.join(ASKED[learner])}")
    found = {}
    for task in tasks:
        folders = [args.out / f"{learner}-{task}-{seed}" for seed in args.seeds or range(5 if learner == "pets" else 3)]
        for folder in folders if not args.read else ():
            train(learner, task, folder, args.steps or STEPS.get(learner, {}).get(task, USUAL))
        there = [folder for folder in folders if any(map(scored, logs.read(folder / "metrics.csv")))]
        if not there:
            parser.error(f"{args.out} holds nothing of {task} yet: nothing that --read could show")
        found[task] = gathered(learner, there)
    report(learner, found)
    picture = args.picture or args.out / f"{learner}.png"
    draw(learner, found, picture)
    print(picture)


def train(learner: str, task: str, folder: Path, steps: int) -> None:
    """Trains until so many control steps are done, and evaluates."""
    rows, trimtab = logs.read(folder / "metrics.csv"), [sys.executable, "-m", "trimtab.launch.cli"]
    if not rows or rows[-1]["steps"] < steps:
        seed = folder.name.rpartition("-")[2]
        command = [*trimtab, "train", task, "--learner", learner, "--seed", seed, "--steps", str(steps)]
        subprocess.run([*command, "--out", str(folder), *(["--resume"] if folder.exists() else [])], check=True)
    if learner != "pets" and last_evaluation(folder) is None:
        subprocess.run([*trimtab, "eval", str(folder), "--episodes", str(EPISODES)], check=True)


def last_evaluation(folder: Path) -> float | None:
    """The mean return that `trimtab eval` found, in ten episodes, of a run as it is now."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text("utf-8"))
    now = result["episodes"] == EPISODES and result["checkpoint"] == "last"
    return result["mean"] if now and result["steps"] == RunFolder(folder).saved().steps else None


def scored(row: dict[str, float]) -> bool:
    """Whether a row of metrics tells of an episode that ended."""
    return math.isfinite(row["return"])


def gathered(learner: str, folders: list[Path]) -> Runs:
    """What the runs in `folders` came to."""
    curves, last, minutes = [], [], 0.0
    for folder in folders:
        rows = logs.read(folder / "metrics.csv")
        shown = list(filter(scored, rows))
        curves.append(np.array([[row[name] for row in shown] for name in ("steps", "return")]))
        mean = None if learner == "pets" else last_evaluation(folder)
        if learner != "pets" and mean is None:
            raise SystemExit(f"{folder} has no evaluation of {EPISODES} episodes of its last checkpoint: trimtab eval")
        last.append(curves[-1][1, -1] if mean is None else mean)
        minutes = max(minutes, rows[-1]["wall_s"] / 60.0)
    return Runs(curves, np.array(last), minutes)


def published(task: str) -> dict[str, np.ndarray]:
    """Of each algorithm, control steps and mean returns (2, n)."""
    with (Path(__file__).parent / "dm_control_returns.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task]
    points = {name: [(r["env_steps"], r["mean_return"]) for r in rows if r["algorithm"] == name] for name in PUBLISHED}
    return {name: np.array(sorted(np.array(of, float).tolist())).T for name, of in points.items() if of}


def report(learner: str, found: dict[str, Runs]) -> None:
    """Prints what came of each task's runs."""
    table = Table(title=f"{learner}: returns")
    columns = ("task", "asked", "first at", "steps", "last: mean", "std", "IQM", "95 %", "SAC published", "min")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, runs in found.items():
        asked, steps = ASKED[learner][task], min(int(curve[0, -1]) for curve in runs.curves)
        first = [next((int(at) for at, value in curve.T if value >= asked), None) for curve in runs.curves]
        last = summary(runs.last)
        theirs = published(task)["sac"].T
        near = [f"{value:.0f}" for at, value in theirs if at == steps]
        table.add_row(
            task,
            f"{asked:g}" if math.isfinite(asked) else "-",
            " ".join("-" if at is None else f"{at / 1000:g}k" for at in first) if math.isfinite(asked) else "-",
            f"{steps}",
            f"{last.mean:.0f}",
            f"{last.std:.0f}",
            f"{last.iqm:.0f}",
            f"{last.low:.0f} to {last.high:.0f}" if len(runs.last) > 1 else "-",
            near[0] if near else "-",
            f"{runs.minutes:.1f}",
        )
    Console(width=130).print(table)


def draw(learner: str, found: dict[str, Runs], path: Path) -> None:
    """Draws each task's returns: every seed's, their interquartile mean with its interval, and what is published."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    across = min(4, len(found))
    down = math.ceil(len(found) / across)
    figure, axes = plt.subplots(down, across, figsize=(4.2 * across, 3.4 * down), squeeze=False, layout="constrained")
    for ax in axes.flat[len(found) :]:
        ax.set_axis_off()
    for ax, (task, runs) in zip(axes.flat, found.items()):
        ends = min(curve[0, -1] for curve in runs.curves)
        steps = runs.curves[0][0][runs.curves[0][0] <= ends]
        returns = np.array([np.interp(steps, *curve) for curve in runs.curves])
        for curve in runs.curves:
            ax.plot(*curve, color="#9db8d2", linewidth=1)
        sums = [summary(column) for column in returns.T]
        if len(returns) > 1:
            ax.fill_between(
                steps, [s.low for s in sums], [s.high for s in sums], color="#9db8d2", alpha=0.3, linewidth=0
            )
        ax.plot(steps, [s.iqm for s in sums], color="#1f4e79", linewidth=2.5, label=f"trimtab, {learner} (IQM)")
        for name, points in published(task).items():
            label, style, marker = PUBLISHED[name]
            if points[0, 0] <= 1.05 * ends:
                within = points[:, points[0] <= 1.05 * ends]
                ax.plot(*within, color="0.4", linestyle=style, marker=marker, markersize=5, label=label)
            else:
                ax.axhline(
                    points[1, 0], color="0.5", linestyle=style, linewidth=1, label=f"{label}, {points[0, 0]:.0f}"
                )
        ax.set(title=task, xlabel="control steps", ylim=(0, 1020), xlim=(0, 1.05 * ends))
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("return")
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main()
