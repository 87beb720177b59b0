"""The model-based homework of a Berkeley course (CS285, homework 4), with the learner `pets`.

    python benchmarks/course.py                                    # a day of processor time; goes on where it stopped
    python benchmarks/course.py cheetah --seeds 0 --steps 2500     # after 5000 random ones

Three networks of 2 x 250 units without variances, costs averaged over the three, random data first, then episodes under
random shooting or CEM on what has been learned; rewards are known, dynamics are learned. The tasks are the course's,
from its published environments, but for the arm:

- cheetah: Gymnasium's half-cheetah controlled every 10 ms, 500 steps; reward is the forward speed, less 10 for each of
  the front leg's three joints that is bent forward (thigh beyond 0.2 rad, shin and foot beyond 0);
- reacher: an arm of seven joints controlled every 20 ms, 200 steps; reward is -10 times the distance of its tip from a
  fixed place. The course's arm is in a file of its own; here it is that of Gymnasium's Pusher, in the same place;
- obstacles: a point that moves by a tenth of its control, and stays where a move would lead into one of five
  rectangles or over the edge; at most 100 steps, until it is within 0.1 of the goal; reward is minus the distance.

What is asked is what the homework's text says of a run's returns after its last iteration: episodes are gathered 10 at
a time there (obstacles: 1000 steps at a time) before the model is trained on; here after each one.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy and SciPy load; our own threads divide the cores

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from trimtab.controllers import run
from trimtab.controllers.cem import CEM
from trimtab.controllers.random_shooting import RandomShooting
from trimtab.controllers.sampling import SamplingPlanner
from trimtab.learners.ensemble import EnsembleSettings
from trimtab.learners.interface import Environment
from trimtab.learners.logs import read
from trimtab.learners.pets import PETS, RandomControls
from trimtab.learners.replay import Replay
from trimtab.learners.run_folder import About, RunFolder, Saved
from trimtab.learners.training import Piece, train
from trimtab.robots.arrays import Array, entry, indicator, norm
from trimtab.robots.layout import Reading, View
from trimtab.robots.plugins import UnknownName
from trimtab.robots.shaping import column
from trimtab.robots.task import Robot, Start, Task, Term
from trimtab.sim.interface import Simulator, State

ASSETS = Path(gymnasium.__file__).parent / "envs/mujoco/assets"
RANDOM = 5000
"""Least steps at random, before the first plan."""

LAST = 5
"""Episodes at the end of a run that the return reported is the mean of."""


def lose(reward: Callable[[View, Array], Array]) -> tuple[Term, ...]:
    """The terms of planning for `reward`, and nothing else."""
    return (Term("reward", lambda y, u, t: column(-reward(y, u))),)


# Cheetah --------------------------------------------------------------------------------------------------------------


def cheetah() -> Task:
    """Run forward, the front leg never bent forward."""
    robot = Robot(
        name="course_cheetah",
        build=lambda: mujoco.MjSpec.from_file(str(ASSETS / "half_cheetah.xml")),
        readings=(
            Reading.qpos("places", *range(9)),  # x, z, pitch, back thigh, shin, foot, front thigh, shin, foot
            Reading.qvel("velocities", *range(9)),
        ),
        dt=0.01,
    )

    def reward(y: View, u: Array) -> Array:
        value = entry(y.velocities, 0)
        for joint, most in ((6, 0.2), (7, 0.0), (8, 0.0)):
            angle = entry(y.places, joint)
            value = value - 10.0 * indicator(angle > most, angle)
        return value

    def start(seed: int) -> Start:
        rng = np.random.default_rng(seed)
        return Start(rng.uniform(-0.1, 0.1, 9), 0.1 * rng.standard_normal(9))

    return Task("course_cheetah-run", robot, reward, lose(reward), start, duration=5.0)


# Reacher --------------------------------------------------------------------------------------------------------------

TARGET = (0.1, 0.1, 0.1)


def _arm() -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(ASSETS / "pusher_v5.xml"))
    for name in ("object", "goal"):
        spec.delete(spec.body(name))
    return spec


def reacher() -> Task:
    """Put the arm's tip to a place."""
    robot = Robot(
        name="course_arm",
        build=_arm,
        readings=(
            Reading.qpos("joints", *range(7)),
            Reading.qvel("velocities", *range(7)),
            Reading.sensed("tip", 3, mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_XBODY, "tips_arm"),
        ),
        dt=0.02,
    )

    def reward(y: View, u: Array) -> Array:
        return -10.0 * norm(*(entry(y.tip, i) - TARGET[i] for i in range(3)))

    def start(seed: int) -> Start:
        return Start(np.zeros(7), np.zeros(7))

    return Task("course_arm-reach", robot, reward, lose(reward), start, duration=4.0)


# Obstacles ------------------------------------------------------------------------------------------------------------

GOAL, NEAR, EDGE = (0.7, -0.8), 0.1, 0.99
OBSTACLES = np.array(  # left, top, width, height
    [
        (-0.4, 0.8, 0.4, 0.3),
        (-0.9, 0.3, 0.2, 0.6),
        (0.6, -0.1, 0.12, 0.4),
        (-0.1, 0.2, 0.15, 0.4),
        (0.1, -0.7, 0.3, 0.15),
    ]
)


def free(place: np.ndarray) -> bool:
    """Whether the point may be at `place` (2,)."""
    left, top, width, height = OBSTACLES.T
    x, y = place
    inside = (left < x) & (x < left + width) & (top - height < y) & (y < top)
    return bool(np.abs(place).max() < EDGE and not inside.any())


def obstacles() -> Task:
    """Go to the goal around the obstacles, from a free place in the upper part."""
    limits = np.array([[-EDGE, -EDGE], [EDGE, EDGE]])
    robot = Robot("course_point", build=None, readings=(Reading("place", 2),), dt=1.0, limits=limits)

    def distance(y: View) -> Array:
        return norm(*(entry(y.place, i) - GOAL[i] for i in range(2)))

    def reward(y: View, u: Array) -> Array:
        return -distance(y)

    def arrived(y: View) -> Array:
        return distance(y) < NEAR

    def start(seed: int) -> Start:
        rng = np.random.default_rng(seed)
        while not free(place := rng.uniform((-EDGE, 0.26), (EDGE - 0.4, EDGE))):
            pass
        return Start(place, np.zeros(2))

    terms = lose(reward)
    return Task("course_point-obstacles", robot, reward, terms, start, duration=100.0, goal=arrived, end=arrived)


class Point:
    """The plant of `obstacles`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.dt = task.robot.dt
        self._state = State(0.0, np.zeros(2))

    def reset(self, seed: int, state: State | None = None) -> State:
        """Begins an episode drawn by `seed`, or goes on from `state`."""
        self._state = state or State(0.0, self.task.start(seed).qpos)
        return self._state

    def step(self, u: np.ndarray) -> State:
        """Moves by a tenth of `u` (2,), if that is possible."""
        here = self._state.y
        there = here + 0.1 * u
        self._state = State(self._state.time + self.dt, there if free(there) else here.copy())
        return self._state

    def scene(self) -> None:
        """Nothing to draw."""

    def close(self) -> None:
        """Nothing is held."""


# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place(Environment):
    """Where a learner gathers experience, in a plant that may be of ours here.

    Attributes:
        plant: makes it.
    """

    plant: Callable[[Task], Simulator] | None = None

    def make(self) -> Simulator:
        """A plant."""
        return self.plant(self.task) if self.plant else super().make()


@dataclass(frozen=True)
class Experiment:
    """One line of the table.

    Attributes:
        task: makes it.
        planner: searches.
        asked: what the homework says of the return.
        steps: planned, as many as the course gathers.
        epochs: most passes over the data after an episode.
        untold: see `PETS`.
        plant: see `Place`.
    """

    task: Callable[[], Task]
    planner: SamplingPlanner
    asked: str
    steps: int
    epochs: int
    untold: tuple[str, ...] = ()
    plant: Callable[[Task], Simulator] | None = None


def shooting(horizon: int) -> RandomShooting:
    """The course's: 1000 sequences, each step drawn anew."""
    return RandomShooting(
        horizon=horizon, samples=1000, iterations=1, first_iterations=1, knots=horizon, spline="zero", replan=1
    )


# The course keeps 5 elites of 1000, and begins each plan from nothing.
CROSS_ENTROPY = CEM(
    horizon=15, samples=1000, iterations=4, knots=15, spline="zero", replan=1, elites=0.005, momentum=0.0, noise=1.0
)
EXPERIMENTS = {
    "cheetah": Experiment(cheetah, shooting(15), "250 to 350", 70_000, 30, ("places[0]",)),
    "cheetah-cem": Experiment(cheetah, CROSS_ENTROPY, "at least 800", 20_000, 30, ("places[0]",)),
    "reacher": Experiment(reacher, shooting(10), "-300 to -250", 70_000, 15),
    "obstacles": Experiment(obstacles, shooting(10), "-70 to -50 at first, then -25 to -20", 11_000, 5, (), Point),
}


@dataclass
class Teller:
    """Prints a line for each episode."""

    name: str
    console: Console = field(default_factory=lambda: Console(width=120))

    def start(self, saved: Saved, steps: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Prints it."""
        self.console.print(f"{self.name}: {text}")

    def watch(self, doing: str, numbers: Mapping[str, float]) -> None:
        """Nothing."""

    def piece(self, piece: Piece) -> None:
        """Prints the episode's return."""
        row = piece.row
        self.console.print(
            f"{self.name}, episode {row['piece']:.0f}: return {row['return']:.1f}, {row['length']:.0f} steps, "
            f"{row['plan_ms']:.0f} ms a plan, hold-out loss {row['model/holdout']:.3g}, {row['wall_s']:.0f} s"
        )

    def end(self) -> None:
        """Nothing."""


def at_random(place: Place, path: Path, seed: int) -> np.ndarray:
    """Returns of the episodes under random controls, whose steps are in `path` afterwards."""
    if not path.exists():
        store, plant, controller = Replay(place.task.robot), place.make(), RandomControls(place.task, 1)
        rng = np.random.default_rng(seed)
        while len(store) < RANDOM:
            store.add_episode(run(plant, controller, task=place.task, seed=int(rng.integers(2**32))))
        plant.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        store.save(path)
    return np.array([rows.reward.sum() for rows in Replay.load(path, place.task.robot).segments()])


def returns(name: str, seed: int, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns of the random episodes and of the planned ones; runs what has not been run yet."""
    experiment = EXPERIMENTS[name]
    task, planner, steps = experiment.task(), experiment.planner, args.steps or experiment.steps
    if args.samples:
        planner = replace(planner, samples=args.samples)
    place = Place(task, "mujoco", task.robot.dt, task.duration, planner, plant=experiment.plant)
    data = args.out / f"{task.name}-{seed}.npz"
    random = at_random(place, data, seed)
    settings = PETS(
        model="deterministic",
        network=EnsembleSettings(members=3, elites=3, hidden=(250, 250), batch=512, epochs=experiment.epochs),
        untold=experiment.untold,
        propagation="mean",
        random_episodes=0,
        data=str(data),
    )
    path = args.out / f"{name}-{planner.samples}-{seed}"
    about = About(name, task.name, "pets", seed, task.robot.dt, steps)
    folder = RunFolder(path) if path.exists() else RunFolder.create(path, about, f"# {planner}\n# {settings}\n")
    learner = settings.start(place, seed)
    try:
        outcome = train(learner, folder, steps=steps, observers=[Teller(f"{name}, seed {seed}")])
    finally:
        learner.close()
    if outcome.status != "done":
        raise SystemExit(outcome.trace or outcome.reason)
    return random, np.array([row["return"] for row in read(folder.metrics)])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="planned, in place of the course's number")
    parser.add_argument("--samples", type=int, help="candidates of an iteration, in place of 1000")
    parser.add_argument("--out", type=Path, default=Path("runs/course"), help="where runs are kept")
    args = parser.parse_args()
    for name in args.experiments:
        if name not in EXPERIMENTS:
            parser.error(str(UnknownName("experiment", name, EXPERIMENTS)))
    torch.set_num_threads(1)
    table = Table(title="Returns: mean, and from least to most")
    for heading in ("", "seeds", "at random", "first planned", f"last {LAST} planned", "planned", "asked"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in args.experiments or EXPERIMENTS:
        runs = [returns(name, seed, args) for seed in args.seeds]
        cells = [np.concatenate(z) for z in zip(*((r, p[:1], p[-LAST:]) for r, p in runs))]
        shown = [f"{z.mean():.0f} ({z.min():.0f} to {z.max():.0f})" if len(z) else "" for z in cells]
        planned = str(min(len(p) for _, p in runs))
        table.add_row(name, str(len(runs)), *shown, planned, EXPERIMENTS[name].asked)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
