"""Scores of the shipped scenarios: the task's reward over whole episodes, against what was asked and published.

Episodes run as a user runs them (`trimtab run SCENARIO --seed N --json -`), dm_control's tasks on its plant, one
process a core, each bound to its core; the virtual clock makes the scores independent of that. With `--timing` a second
pass times control steps with all cores for one process, and so says whether a scenario keeps real time. Results are
kept as they come, a line an episode, so an interrupted benchmark goes on where it stopped; those of a scenario whose
settings have changed are measured anew (a change of a task's terms or of the code is not noticed: use another
`--results`). The published figures are the best of SAC, DreamerV3 and TD-MPC2 at up to 4M environment steps.

    python benchmarks/scores.py --timing             # everything: about two hours on two cores
    python benchmarks/scores.py walker-run --seeds 2
    python benchmarks/scores.py --clock wall         # the presets for real time, one at a time
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from trimtab import robots
from trimtab.launch.scenario import find

ASKED = {  # scenario: (at least, best published learner)
    "pendulum-swingup": (900, 842),
    "cartpole-balance": (None, 999),
    "cartpole-balance_sparse": (None, 1000),
    "cartpole-swingup": (840, 877),
    "cartpole-swingup_sparse": (680, 850),
    "acrobot-swingup": (620, 663),
    "acrobot-swingup_sparse": (None, None),
    "ball_in_cup-catch": (960, 986),
    "reacher-easy": (970, 987),
    "reacher-hard": (960, 982),
    "finger-spin": (740, 990),
    "finger-turn_easy": (970, 982),
    "finger-turn_hard": (970, 977),
    "cheetah-run": (820, 896),
    "walker-stand": (950, 993),
    "walker-walk": (930, 981),
    "walker-run": (520, 877),
    "hopper-stand": (500, 955),
    "hopper-hop": (100, 449),
    "quadruped-walk": (970, 971),
    "quadruped-run": (700, 954),
    "humanoid-stand": (650, 918),
    "humanoid-walk": (500, 912),
    "humanoid-run": (None, None),
    "fish-upright": (None, None),
    "fish-swim": (500, 761),
    "swimmer-swimmer6": (None, None),
    "point_mass-easy": (None, None),
    "manipulator-bring_ball": (None, None),
    "cartpole-swingup-ilqr": (None, 877),
    "acrobot-swingup-ilqr": (None, 663),
    "walker-walk-ilqr": (None, 981),
    "planar_quadrotor-hover": (None, None),
    "quadrotor-waypoints": (None, None),
    "car-parking": (None, None),
    "car-parking-ilqr": (None, None),
    "panda-reach": (None, None),
    "panda-figure_eight": (None, None),
}
WALL = (
    "pendulum-swingup",
    "cartpole-swingup",
    "reacher-easy",
    "reacher-hard",
    "finger-turn_easy",
    "finger-turn_hard",
    "walker-walk",
    "cheetah-run",
    "quadruped-walk",
    "cartpole-swingup-ilqr",
    "acrobot-swingup-ilqr",
    "planar_quadrotor-hover",
    "quadrotor-waypoints",
    "car-parking",
    "car-parking-ilqr",
)


def settings(scenario: str) -> str:
    """A hash of what the scenario's file says: a result holds for the settings that it was measured with."""
    return hashlib.sha256(repr(find(scenario)).encode()).hexdigest()[:12]


def episode(scenario: str, seed: int, cores: set[int], clock: str = "virtual", duration: float | None = None) -> dict:
    """One run of the command line on `cores`; its JSON result, or {"error": ...}."""
    command = [sys.executable, "-m", "trimtab.launch.cli", "run", scenario]
    command += ["--seed", str(seed), "--clock", clock, "--record", "off", "--json", "-"]
    if duration is not None:
        command += ["--duration", f"{duration:.9g}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if done.returncode:
        return {"scenario": scenario, "seed": seed, "error": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_all(scenarios: list[str], seeds: list[int], clock: str, results: Path) -> list[dict]:
    """All episodes, those already in `results` left out; under the wall clock each has the machine to itself."""
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = [row for row in done if "error" not in row]
    done = [row for row in done if row["scenario"] in ASKED and row.get("settings") == settings(row["scenario"])]
    known = {(row["scenario"], row["seed"]) for row in done}
    todo = [(name, seed) for name in scenarios for seed in seeds if (name, seed) not in known]
    cores = sorted(os.sched_getaffinity(0))
    places: Queue[set[int]] = Queue()
    for place in [set(cores)] if clock == "wall" else [{core} for core in cores]:
        places.put(place)

    def work(item: tuple[str, int]) -> dict:
        place = places.get()
        try:
            return episode(*item, place, clock)
        finally:
            places.put(place)

    with ThreadPoolExecutor(places.qsize()) as pool:
        for row in track(pool.map(work, todo), total=len(todo), console=Console(stderr=True)):
            row["settings"] = settings(row["scenario"])
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            done.append(row)
    return [row for row in done if row["scenario"] in scenarios and row["seed"] in seeds]


def step_times(scenarios: list[str], results: Path) -> dict[str, tuple[float, float]]:
    """Median planning time per control step and control period [s], all cores for one process, by scenario."""
    kept: dict[str, tuple[float, float, str]] = json.loads(results.read_text()) if results.exists() else {}
    cores = os.sched_getaffinity(0)
    for name in scenarios:
        if name not in kept or kept[name][2] != settings(name):
            scenario = find(name)
            dt, replan = robots.load(scenario.task).robot.dt, scenario.settings.get("replan", 1)
            row = episode(name, 0, cores, duration=dt * replan * 25)
            if "error" not in row:
                kept[name] = (row["plan_ms"]["p50"] / 1e3 / replan, dt, settings(name))
                results.write_text(json.dumps(kept))
    return {name: kept[name][:2] for name in scenarios if name in kept}


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help="by default all")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N-1")
    parser.add_argument("--first-seed", type=int, default=0, help="other seeds, for tuning")
    parser.add_argument("--clock", choices=("virtual", "wall"), default="virtual")
    parser.add_argument("--timing", action="store_true", help="also time control steps: nothing else should run")
    parser.add_argument("--results", type=Path, default=Path("runs/scores"))
    args = parser.parse_args()
    scenarios = args.scenarios or list(WALL if args.clock == "wall" else ASKED)
    unknown = sorted(set(scenarios) - set(ASKED))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(ASKED)}")
    args.results.mkdir(parents=True, exist_ok=True)
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    rows = run_all(scenarios, seeds, args.clock, args.results / f"{args.clock}.jsonl")
    times = step_times(scenarios, args.results / "step_times.json") if args.timing else {}
    table = Table(title=f"Return over an episode, {args.clock} clock, seeds {seeds[0]} to {seeds[-1]}")
    columns = ["scenario", "n", "mean", "std", "min", "asked", "published"]
    columns += ["misses", "plan p50 [ms]"] if args.clock == "wall" else []
    columns += ["s/step", "period [s]", "real time"] if args.timing else []
    for column in columns:
        table.add_column(column, justify="left" if column == "scenario" else "right")
    for name in scenarios:
        mine = [row for row in rows if row["scenario"] == name]
        scores = np.array([row["return"] for row in mine if "error" not in row])
        if not len(scores):
            table.add_row(name, "0", *(row["error"][0][:60] for row in mine[:1] if row["error"]))
            continue
        asked, published = (str(figure or "") for figure in ASKED[name])
        cells = [name, str(len(scores)), f"{scores.mean():.0f}", f"{scores.std():.0f}", f"{scores.min():.0f}"]
        cells += [asked, published]
        if args.clock == "wall":
            cells.append(f"{np.mean([row['deadline_misses'] for row in mine]):.0f}")
            cells.append(f"{np.mean([row['plan_ms']['p50'] for row in mine]):.1f}")
        if name in times:
            seconds, period = times[name]
            cells += [f"{seconds:.4f}", f"{period:g}", "yes" if seconds < period else f"{seconds / period:.1f} x"]
        table.add_row(*cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
