"""Sample efficiency: returns of learners episode by episode, over seeds, beside what others publish.

    python benchmarks/learners.py                                    # all tasks, seeds 0 to 4, into runs/learners
    python benchmarks/learners.py --tasks pendulum-swingup --seeds 0 1 2

Runs that the folder holds already are gone on with, if they are too short, and otherwise only read. Prints, for each
task, in which episode each seed first reaches the return asked for, and the last episode's returns as mean, standard
deviation and interquartile mean with its 95 % bootstrap interval; draws the curves. Published figures are means after
100,000 environment steps, 100 episodes, of SAC, DreamerV3 and TD-MPC2, from the result files of TD-MPC2's repository.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab.controllers.files import replacing
from trimtab.learners import logs
from trimtab.learners.evaluation import summary

TASKS = {
    "cartpole-swingup": (800.0, 10, {"SAC": 835.0, "DreamerV3": 676.7, "TD-MPC2": 839.4}),
    "pendulum-swingup": (700.0, 4, {"SAC": 96.0, "DreamerV3": 699.3, "TD-MPC2": 724.0}),
    "reacher-easy": (900.0, 10, {"SAC": 540.4, "DreamerV3": 872.1, "TD-MPC2": 936.9}),
    "cheetah-run": (None, 40, {"SAC": 310.1, "DreamerV3": 335.7, "TD-MPC2": 519.1}),
}
"""The return asked for, episodes, and what is published."""

STEPS = 1000
"""Control steps of an episode."""


def train(task: str, seed: int, folder: Path) -> None:
    """Trains until the task's number of episodes is done; each of these tasks' lasts `STEPS` control steps."""
    command = [sys.executable, "-m", "trimtab.launch.cli", "train", task, "--learner", "pets", "--seed", str(seed)]
    command += ["--steps", str(STEPS * TASKS[task][1]), "--out", str(folder)]
    if folder.exists():
        command.append("--resume")
    subprocess.run(command, check=True)


def main() -> None:
    """Prints the table, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS)[:3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/learners"))
    parser.add_argument("--picture", type=Path, default=Path("runs/learners/curves.png"))
    args = parser.parse_args()
    curves, minutes = {}, {}
    for task in args.tasks:
        rows = []
        for seed in args.seeds:
            folder = args.out / f"{task}-{seed}"
            if len(logs.read(folder / "metrics.csv")) < TASKS[task][1]:
                train(task, seed, folder)
            rows.append(logs.read(folder / "metrics.csv"))
        shortest = min(map(len, rows))
        curves[task] = np.array([[row["return"] for row in own[:shortest]] for own in rows])
        minutes[task] = [own[-1]["wall_s"] / 60.0 for own in rows]
    report(curves, minutes)
    draw(curves, args.picture)
    print(args.picture)


def report(curves: dict[str, np.ndarray], minutes: dict[str, list[float]]) -> None:
    """Prints what came of each task's returns (seeds, episodes)."""
    table = Table(title="PETS: returns of an episode of 1000 control steps")
    for heading in ("task", "asked", "first in episode", "episodes", "last: mean", "std", "IQM", "95 %", "min"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for task, returns in curves.items():
        asked = TASKS[task][0]
        reached = [next((k + 1 for k, r in enumerate(own) if asked and r >= asked), None) for own in returns]
        last = summary(returns[:, -1])
        table.add_row(
            task,
            f"{asked:g}" if asked else "-",
            " ".join(map(str, reached)) if asked else "-",
            str(returns.shape[1]),
            f"{last.mean:.0f}",
            f"{last.std:.0f}",
            f"{last.iqm:.0f}",
            f"{last.low:.0f} to {last.high:.0f}",
            f"{max(minutes[task]):.1f}",
        )
    Console(width=110).print(table)


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    """Draws each task's returns (seeds, episodes): every seed's, their interquartile mean, and what is published."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.4), squeeze=False, layout="constrained")
    for ax, (task, returns) in zip(axes[0], curves.items()):
        episodes = np.arange(1, returns.shape[1] + 1)
        for own in returns:
            ax.plot(episodes, own, color="#9db8d2", linewidth=1)
        middle = [summary(returns[:, k]).iqm for k in range(len(episodes))]
        ax.plot(episodes, middle, color="#1f4e79", linewidth=2.5, label="trimtab, PETS (IQM)")
        for (name, value), style in zip(TASKS[task][2].items(), (":", "--", "-.")):
            ax.axhline(value, color="0.5", linestyle=style, linewidth=1, label=f"{name}, 100 episodes")
        ax.set(title=task, xlabel="episode", ylim=(0, 1020))
        if len(episodes) <= 15:
            ax.set_xticks(episodes)
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel("return")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


if __name__ == "__main__":
    main()
