"""Learned models of the cheetah: whether their uncertainty is right, and how far ahead they can be believed.

    python benchmarks/model_error.py

Data are whole episodes, half of them under random controls, half under CEM on MuJoCo with noise added to the controls,
a decision every 40 ms as under the learner `pets`; models are trained on some and tested on others, which they saw
nothing of. For each seed everything is drawn anew: episodes, first weights, starts of predictions.

One step ahead, the share of what happened that lies within the ensemble's interval of probability 0.9, for each
reading, and the expected calibration error (`learners/calibration.py`). More steps ahead, from starts spread over the
test episodes, under the controls recorded there: the error of the ensemble (mean of its particles, TS-infinity), of a
single network without variances, and of a linear model, least squares on what the networks are told; each reading's
error is divided by its standard deviation in the training data, and the root of the mean square is taken over readings
and starts. At each number of steps, too, the share of what happened that lies within the particles' band from 5 to
95 %. Readings that never change are left out, and of errors those that the model is not told (how far the cheetah has
run).
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table
from trimtab import sim
from trimtab.controllers import MPC, run
from trimtab.controllers.cem import CEM
from trimtab.controllers.files import replacing
from trimtab.launch.scenario import Setup, find, resolve
from trimtab.learners.calibration import LEVELS, Calibration, calibration
from trimtab.learners.encoding import Encoding
from trimtab.learners.ensemble_dynamics import EnsembleDynamics
from trimtab.learners.learned_model import LearnedModel
from trimtab.learners.pets import RandomControls
from trimtab.learners.replay import Replay, Transitions
from trimtab.robots.task import Task
from trimtab.sim.interface import State

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SCENARIO, HORIZON, STARTS, PARTICLES, NOISE = "cheetah-run", 25, 200, 100, 0.2
PLANNER = CEM(horizon=15, samples=32, iterations=2, knots=8, noise=1.0)
MODELS = ("ensemble", "network", "linear")
SHOWN = (1, 2, 3, 5, 10, 15, 20, 25)


class Noisy:
    """A controller to whose controls normal noise is added, of a standard deviation relative to half their range."""

    def __init__(self, controller: MPC, noise: float) -> None:
        self.controller = controller
        self.noise = noise

    def reset(self, seed: int) -> None:
        """Begins an episode."""
        self.controller.reset(seed)
        self._rng = np.random.default_rng(seed)

    def control(self, state: State) -> np.ndarray:
        """The control (nu,), within limits."""
        low, high = self.controller.task.robot.control_limits
        u = self.controller.control(state)
        return np.clip(u + self.noise * 0.5 * (high - low) * self._rng.standard_normal(len(u)), low, high)


@dataclass(frozen=True)
class Found:
    """What one seed gave.

    Attributes:
        returns: of the episodes under CEM.
        rows: trained on.
        by_row, by_episode: coverage of the 90 % interval on rows held out of the episodes trained on, and on others.
        covered: share within each of the intervals `LEVELS`, on others.
        readings: coverage of each reading on others, by name.
        kinds: coverage on others' episodes under random controls, and under CEM.
        error: by model, normalised error after 1 to `HORIZON` steps.
        band: coverage of the particles' band after as many steps.
    """

    returns: list[float]
    rows: int
    by_row: float
    by_episode: float
    covered: np.ndarray
    readings: dict[str, float]
    kinds: tuple[float, float]
    error: dict[str, np.ndarray]
    band: np.ndarray


class Linear:
    """Least squares from inputs (n, di) with a constant to outputs (n, do)."""

    def __init__(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        self.weights = np.linalg.lstsq(self._with_constant(inputs), outputs, rcond=None)[0]

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """What it predicts (n, do)."""
        return self._with_constant(inputs) @ self.weights

    @staticmethod
    def _with_constant(inputs: np.ndarray) -> np.ndarray:
        return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)


def gather(task: Task, count: int, seed: int) -> tuple[list[Transitions], list[float]]:
    """So many episodes, random ones and ones by CEM in turn, and the returns of the latter."""
    plant, dynamics = sim.make("mujoco", task), sim.dynamics("mujoco", task)
    controllers = RandomControls(task, 2), Noisy(MPC(PLANNER, dynamics, task), NOISE)
    episodes, returns = [], []
    for k in range(count):
        episode = run(plant, controllers[k % 2], task=task, seed=1000 * seed + k)
        replay = Replay(task.robot)
        replay.add_episode(episode)
        episodes.append(replay.all())
        if k % 2:
            returns.append(float(episode.return_))
    plant.close()
    dynamics.close()
    return episodes, returns


def joined(episodes: list[Transitions]) -> Transitions:
    """The rows of all."""
    names = ("y", "u", "y_next", "reward", "terminated", "truncated")
    return Transitions(**{name: np.concatenate([getattr(e, name) for e in episodes]) for name in names})


def measure(setup: Setup, train: list[Transitions], test: list[Transitions], seed: int) -> Found:
    """Trains the three models, and tests them."""
    task, settings = setup.planned, setup.learner.network
    rng = np.random.default_rng([seed, 1])
    encoding = Encoding.of(task.robot, untold=setup.learner.untold)
    model = LearnedModel.of_ensemble(task.robot, rng, settings, encoding=encoding)
    alone = replace(settings, members=1, elites=1, probabilistic=False, bootstrap=False)
    network = LearnedModel.of_ensemble(task.robot, rng, alone, encoding=encoding)
    data = model.data(joined(train))
    fit = model.regressor.fit(*data, rng)
    network.regressor.fit(*data, rng)

    covered, readings, kinds = one_step(task, model, test)
    error, band = many_steps(task, model, network, Linear(*data), joined(train).y.std(axis=0), test, rng)
    return Found(
        returns=[],
        rows=fit.rows,
        by_row=fit.calibration.covered90,
        by_episode=covered.covered90,
        covered=covered.covered,
        readings=readings,
        kinds=kinds,
        error=error,
        band=band,
    )


def one_step(task: Task, model: LearnedModel, test: list[Transitions]) -> tuple:
    """Calibration on all test episodes, coverage by reading, and coverage on random ones and on those under CEM."""
    parts = []
    for episode in test:
        inputs, targets = model.data(episode)
        parts.append((*(z[model.regressor.elites] for z in model.regressor.predict(inputs)), targets))

    def of(parts: list, outputs: list[int]) -> Calibration:
        mean, variance = (np.concatenate([p[i] for p in parts], axis=1)[..., outputs] for i in (0, 1))
        return calibration(mean, variance, np.concatenate([p[2] for p in parts])[:, outputs])

    varying = np.flatnonzero(np.ptp(np.concatenate([p[2] for p in parts]), axis=0) > 0.0).tolist()
    labels = task.robot.layout.labels
    readings = {labels[model.encoding.predicted[i]]: of(parts, [i]).covered90 for i in varying}
    return of(parts, varying), readings, (of(parts[0::2], varying).covered90, of(parts[1::2], varying).covered90)


def many_steps(
    task: Task,
    model: LearnedModel,
    network: LearnedModel,
    linear: Linear,
    scale: np.ndarray,
    test: list[Transitions],
    rng: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Errors by model (HORIZON,), and coverage of the particles' band (HORIZON,)."""
    encoding = model.encoding
    shown = [k for k in (*encoding.angles, *encoding.told) if scale[k] > 0.0]
    particles = EnsembleDynamics(task, model, "tsinf", PARTICLES)
    single = EnsembleDynamics(task, network, "mean")
    squares = {name: np.zeros(HORIZON) for name in MODELS}
    inside = np.zeros(HORIZON)
    each = STARTS // len(test)
    for episode in test:
        for k in rng.choice(len(episode) - HORIZON + 1, each, replace=False):
            y, u = State(0.0, episode.y[k]), episode.u[k : k + HORIZON]
            happened = episode.y_next[k : k + HORIZON]
            cloud = particles.rollout(y, u[None], rng).y[:, 0, 1:]
            walked = [episode.y[k]]
            for control in u:
                now = walked[-1][None]
                walked.append(encoding.advance(now, linear(encoding.tell(now, control[None])))[0])
            predicted = {
                "ensemble": cloud.mean(axis=0),
                "network": single.rollout(y, u[None], rng).y[0, 0, 1:],
                "linear": np.array(walked[1:]),
            }
            for name, value in predicted.items():
                away = particles.difference(value, happened)[:, shown] / scale[shown]
                squares[name] += (away**2).mean(axis=1)
            # Particles' angles are compared with what happened the shorter way round, too.
            low, high = np.quantile(particles.difference(cloud, happened)[..., shown], (0.05, 0.95), axis=0)
            inside += ((low <= 0.0) & (high >= 0.0)).mean(axis=1)
    count = each * len(test)
    return {name: np.sqrt(total / count) for name, total in squares.items()}, inside / count


def show(found: list[Found]) -> None:
    """Prints the tables."""

    def spread(values: list[float], digits: int = 3) -> str:
        return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    console = Console(width=120)
    table = Table(title=f"Coverage of the ensemble's 90 % interval, one step ahead; {len(found)} seeds (least to most)")
    for heading in ("", "share"):
        table.add_column(heading, justify="right" if heading == "share" else "left")
    table.add_row("episodes not trained on", spread([f.by_episode for f in found]))
    table.add_row("  of them, under random controls", spread([f.kinds[0] for f in found]))
    table.add_row("  of them, under CEM", spread([f.kinds[1] for f in found]))
    table.add_row("rows held out of the episodes trained on", spread([f.by_row for f in found]))
    table.add_row(
        "expected calibration error, not trained on", spread([np.abs(f.covered - LEVELS).mean() for f in found])
    )
    for name in found[0].readings:
        table.add_row(name, spread([f.readings[name] for f in found]))
    console.print(table)

    table = Table(title="Error so many steps ahead, of the readings' standard deviation; share within the band")
    for heading in ("steps", *MODELS, "within 90 %"):
        table.add_column(heading, justify="right")
    for k in SHOWN:
        errors = [spread([f.error[name][k - 1] for f in found]) for name in MODELS]
        table.add_row(str(k), *errors, spread([f.band[k - 1] for f in found]))
    console.print(table)
    returns = [value for f in found for value in f.returns]
    console.print(f"rows trained on: {[f.rows for f in found]}; returns under CEM: {spread(returns, 0)}")


def draw(found: list[Found], dt: float, path: Path) -> None:
    """Errors above, coverage below, by steps ahead: means over seeds, and from least to most."""
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7.0, 6.5), height_ratios=(3, 2))
    steps = np.arange(1, HORIZON + 1)

    def line(axes, values: np.ndarray, label: str, colour: str) -> None:
        axes.plot(steps, values.mean(axis=0), label=label, color=colour)
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)

    labels = ("ensemble, mean of particles", "one network, no variances", "linear")
    for name, label, colour in zip(MODELS, labels, ("tab:blue", "tab:orange", "tab:green")):
        line(above, np.array([f.error[name] for f in found]), label, colour)
    above.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    above.set(ylabel="error / standard deviation of the reading", ylim=(0.0, None))
    above.set_title(f"cheetah: predictions under recorded controls, {len(found)} seeds (mean, least to most)")
    above.legend(loc="upper left", frameon=False)
    line(below, np.array([f.band for f in found]), "particles", "tab:blue")
    below.axhspan(0.85, 0.95, color="0.9", zorder=0)
    below.axhline(0.9, color="0.5", linewidth=0.8)
    below.set(ylabel="share within 90 % band", xlabel=f"steps ahead, {1e3 * dt:.0f} ms each", ylim=(0.0, 1.0))
    below.set_xlim(1, HORIZON)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def main() -> None:
    """Prints both tables, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, nargs=2, default=(10, 4), help="to train on, and to test on")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/images/model_error.png")
    args = parser.parse_args()
    setup = resolve(find(SCENARIO), learner="pets")
    trained, tested = args.episodes
    found = []
    for seed in range(args.seeds):
        episodes, returns = gather(setup.planned, trained + tested, seed)
        found.append(replace(measure(setup, episodes[:trained], episodes[trained:], seed), returns=returns))
        show(found)
    draw(found, setup.period, args.out)


if __name__ == "__main__":
    main()
