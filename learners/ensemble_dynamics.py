"""Learned models as dynamics: what planners search where nobody wrote the model.

A prediction is a mixture: particles, each of which follows one member at a time and the noise that it predicts.
Trajectory sampling is of two kinds (Chua et al., Deep reinforcement learning in a handful of trials using probabilistic
dynamics models, 2018): TS1 draws another member for every step, TS-infinity one for the whole horizon. Moment matching
draws the particles anew after every step, from the normal distribution that has their mean and their covariance, kept
within what readings can be: joints' limits, unit quaternions. With `mean`, the elites are the particles, and each
follows its own mean without noise. Members' means are never averaged along a rollout: what they disagree on is the risk
that planners weigh.

All candidates meet the same draws of members and noise (common random numbers): every candidate's cost is distributed
as if its draws were its own, but a difference between two candidates is not down to luck (Ng and Jordan, PEGASUS: a
policy search method for large MDPs and POMDPs, 2000).

Everything runs in float32 where the networks are, a task's terms included: only costs come back.
"""

import functools
import weakref
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..controllers.compiled_cost import summed
from ..robots.plugins import UnknownName
from ..robots.task import Task
from ..sim.branching import Branches
from ..sim.interface import Rollout, State, check_candidates
from ..sim.linearization import Linearization, Trajectories
from .cuda_graph import Graph
from .exploration import Bonus, information_gain
from .learned_model import LearnedModel
from .regressor import Predictor
from .replay import Signature
from .threads import in_threads

Propagation = Literal["ts1", "tsinf", "moments", "mean"]

_ROWS = 4096
"""Most particles of a part on a CPU: few enough for the layers' outputs to stay in the cache."""


_AGREES = 1e-3
"""How far a cost in float32 may be from NumPy's, relative to 1 + its size."""


class LearnedRollout(Rollout):
    """Predictions on the device that made them, in pieces; NumPy's only when asked for.

    On a GPU `parts` and `gains` are memory of the recorded graph, which the next rollout of as many candidates
    overwrites: they hold as long as any `Rollout`.

    Attributes:
        parts: readings after each step (E, n, H, ny), of so many candidates each.
        gains: information gain summed over the horizon (N,), or None.
    """

    def __init__(self, begin: np.ndarray, parts: list[Tensor], gains: Tensor | None, bonus: Bonus | None) -> None:
        self._begin = begin
        self._bonus = bonus
        self.parts = parts
        self.gains = gains

    @functools.cached_property
    def y(self) -> np.ndarray:  # type: ignore[override]
        """All readings (E, N, H+1, ny)."""
        return self._read(torch.cat(self.parts, dim=1) if len(self.parts) > 1 else self.parts[0])

    @functools.cached_property
    def valid(self) -> np.ndarray:  # type: ignore[override]
        """(E, N) False where the prediction broke down."""
        # A sum tells whether all are finite, and needs no array of flags.
        return np.concatenate([p.sum(dim=(2, 3)).isfinite().cpu().numpy() for p in self.parts], axis=1)

    def of(self, candidates: slice) -> np.ndarray:
        """Readings (E, n, H+1, ny) of some of the candidates, a copy."""
        if candidates.stop is not None and candidates.stop - (candidates.start or 0) == 1:
            first = candidates.start or 0
            for part in self.parts:
                if first < part.shape[1]:
                    return self._read(part[:, first : first + 1])
                first -= part.shape[1]
        return self.y[:, candidates].copy()

    def costs(self, task: Task, controls: np.ndarray, times: np.ndarray) -> np.ndarray | None:
        """Costs (E, N) of the `controls` (N, H, nu) rolled out, the bonus taken off; see `Rollout.costs`."""
        device = self.parts[0].device
        if _in_torch(task, device):
            sizes = [part.shape[1] for part in self.parts]
            t, u = _tensor(times, device), _tensor(controls, device).split(sizes)
            with torch.inference_mode():
                costs = torch.cat([_summed(task, part, own, t) for part, own in zip(self.parts, u)], dim=1)
        elif self._bonus is not None:
            costs = _tensor(summed(task, self.y, controls, times), device)
        else:
            return None
        if self._bonus is not None:
            with torch.inference_mode():
                costs = costs - self._bonus(costs, self.gains)
        return costs.cpu().double().numpy()

    def _read(self, after: Tensor) -> np.ndarray:
        first = np.broadcast_to(self._begin, (*after.shape[:2], 1, after.shape[3]))
        return np.concatenate((first, after.cpu().double().numpy()), axis=2)


class EnsembleDynamics:
    """A learned model as dynamics; also `Differentiable` and `Branching`. It needs a state's readings only.

    What it predicts follows the model's weights, also when these are trained on. As differentiable dynamics it is the
    mean of the elites' mixture, whose states are the readings.

    Args:
        task: whose robot is predicted.
        model: of that robot.
        propagation: `ts1`, `tsinf`, `moments` or `mean`.
        particles: E, as many for each elite; with `mean` it is the number of elites instead.
        bonus: reward added to the task's in `cost`, for exploration.

    Raises:
        ValueError: an unknown propagation, particles that the elites do not divide, or another robot's model.
    """

    stochastic = True
    reads_only = True
    choices: np.ndarray | None = None

    def __init__(
        self,
        task: Task,
        model: LearnedModel,
        propagation: Propagation = "tsinf",
        particles: int = 20,
        bonus: Bonus | None = None,
    ) -> None:
        if propagation not in get_args(Propagation):
            raise UnknownName("propagation", propagation, get_args(Propagation))
        Signature.of(task.robot).refuse_other(model.signature, "the model")
        elites = len(model.regressor.elites)
        check_particles(propagation, particles, elites)
        self.dt = task.robot.dt
        self.model = model
        self.propagation = propagation
        self.particles = elites if propagation == "mean" else particles
        self.bonus = bonus
        self.tangent = model.encoding.ny
        self._recorded: tuple[LearnedModel, int] | None = None
        self._graphs: dict[tuple[int, ...], Graph[tuple[Tensor, Tensor]]] = {}

    # Sampled ----------------------------------------------------------------------------------------------------------

    def rollout(self, state: State, controls: np.ndarray, rng: np.random.Generator) -> LearnedRollout:
        """Predicts from `state` under each of the candidates `controls` (N, H, nu); E is the number of particles.

        Raises:
            ValueError: `controls` of another shape.
        """
        encoding, device = self.model.encoding, self.model.regressor.device
        candidates = check_candidates(controls, encoding.nu)
        order, noise = self._draw(candidates.shape[1], rng)
        begin, u = _tensor(state.y, device), _tensor(candidates, device)
        if device.type == "cuda" and self.model.nominal is None:
            found = [self._graph(u.shape, begin, u, order, noise)(begin, u, order, noise)]
        else:
            pieces = u.split(self._size(len(candidates)))
            found = in_threads(lambda piece: self._rolled(begin, piece, order, noise), pieces)
        parts, gains = zip(*found)
        learned = torch.cat(gains) if self.bonus is not None and self.bonus.gains else None
        return LearnedRollout(np.asarray(state.y, float), list(parts), learned, self.bonus)

    def _size(self, candidates: int) -> int:
        """How many of the candidates are rolled out at once: on a CPU an even number of parts, of about one size."""
        if self.model.regressor.device.type != "cpu":
            return candidates
        parts = 2 * -(-candidates * self.particles // (2 * _ROWS))
        return max(1, -(-candidates // parts))

    @torch.inference_mode()
    def _rolled(self, begin: Tensor, u: Tensor, order: Tensor | None, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Readings (E, n, H, ny) under controls (n, H, nu), and their information gain (n,), if it is asked for."""
        members = self.model.regressor.elite_members()
        out = begin.new_empty(self.particles, *u.shape[:2], len(begin))
        y, gain = begin.expand(self.particles, len(u), -1), begin.new_zeros(len(u))
        for k in range(u.shape[1]):
            if self.bonus is not None and self.bonus.gains:
                gain = gain + self._gain(members, y.mean(dim=0), u[:, k])
            drawn = (None if z is None else z[k] for z in (order, noise))
            out[:, :, k] = y = self._step(members, y, u[:, k], *drawn)
        return out, gain

    def _graph(self, shape: tuple[int, ...], *given: Tensor | None) -> Graph[tuple[Tensor, Tensor]]:
        """`_rolled` for controls of this shape, recorded anew once the model has changed."""
        about = self.model, self.model.regressor.version
        if self._recorded != about:
            self._recorded = about
            self._graphs.clear()
        if shape not in self._graphs:
            self._graphs[shape] = Graph(self._rolled, given)
        return self._graphs[shape]

    def _draw(self, horizon: int, rng: np.random.Generator) -> tuple[Tensor | None, Tensor | None]:
        """How particles are dealt or mixed at each step, (H, E) or (H, E, E), and their noise (H, E, 1, outputs)."""
        if self.propagation == "mean":
            return None, None
        device, outputs = self.model.regressor.device, self.model.encoding.outputs
        normal = _tensor(rng.standard_normal((horizon, self.particles, 1, outputs)), device)
        if self.propagation == "tsinf":
            return None, normal
        if self.propagation == "moments":
            mixing = rng.standard_normal((horizon, self.particles, self.particles)) / np.sqrt(self.particles - 1)
            return _tensor(mixing, device), normal
        orders = rng.permuted(np.tile(np.arange(self.particles), (horizon, 1)), axis=1)
        return torch.as_tensor(orders, device=device), normal

    def _step(self, members: Predictor, y: Tensor, u: Tensor, order: Tensor | None, noise: Tensor | None) -> Tensor:
        """Readings (E, n, ny) after one step from `y` under controls (n, nu)."""
        encoding = self.model.encoding
        dealt = order if self.propagation == "ts1" else None
        told = encoding.tell(y, u.expand(len(y), -1, -1))
        if dealt is not None:
            told = told[dealt]
        of_elites = told.reshape(len(self.model.regressor.elites), -1, encoding.inputs)
        if noise is None:
            mean = members.means(of_elites).reshape(*y.shape[:2], -1)
        else:
            mean, variance = (z.reshape(*y.shape[:2], -1) for z in members(of_elites))
            mean = mean + variance.sqrt() * noise
        if dealt is not None:
            mean = mean[torch.argsort(dealt)]
        y = encoding.advance(self._before(y, u), mean)
        if order is not None and self.propagation == "moments":
            # With Z normal, rows of Z (Y - mean) / sqrt(E - 1) have the covariance of Y's rows.
            centre = y.mean(dim=0)
            y = encoding.within(centre + torch.tensordot(order, y - centre, dims=1))
        return y

    def _before(self, y: Tensor, u: Tensor) -> Tensor:
        """What predictions add to, (E, n, ny), of readings (E, n, ny) under controls (n, nu)."""
        if self.model.nominal is None:
            return y
        rows = y.reshape(-1, y.shape[-1]).cpu().double().numpy()
        controls = u.expand(len(y), -1, -1).reshape(-1, u.shape[-1]).cpu().double().numpy()
        return _tensor(self.model.before(rows, controls), y.device).reshape(y.shape)

    def _gain(self, members: Predictor, y: Tensor, u: Tensor) -> Tensor:
        """Information gain (n,) of a step from the particles' mean readings (n, ny) under controls (n, nu)."""
        told = self.model.encoding.tell(y, u)
        means, variances = members(told.expand(len(self.model.regressor.elites), -1, -1))
        floor = 1e-6 * (means * means).mean(dim=(0, 1)) + 1e-12
        return information_gain(means, variances, floor)

    # Expected ---------------------------------------------------------------------------------------------------------

    def advance(self, state: State, controls: np.ndarray) -> State:
        """The state expected after `controls` (k, nu): at every step the mean of the mixture, which has no noise."""
        y = np.array(state.y, dtype=float)
        for u in controls:
            y = self.model.expected(y[None], u[None])[0]
        return State(state.time + len(controls) * self.dt, y)

    def coordinates(self, state: State) -> np.ndarray:
        """The readings (ny,) of `state`: they are all that these dynamics know."""
        return np.array(state.y, dtype=float)

    def place(self, state: State, x: np.ndarray) -> State:
        """The state of the time of `state` with the readings `x` (ny,)."""
        return State(state.time, np.array(x, dtype=float))

    def displace(self, x: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """The readings x + dx."""
        return x + dx

    def difference(self, x: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The change x - other (..., ny), angles the shorter way round."""
        return self.model.encoding.shorter(other, x)

    def linearize(self, x: np.ndarray, u: np.ndarray) -> Linearization:
        """The linear model of the expected step along readings `x` (H+1, ny) and controls `u` (H, nu)."""
        device, encoding, nominal = self.model.regressor.device, self.model.encoding, self.model.nominal
        before = self.model.before(x[:-1], u)
        members, elites = self.model.regressor.elite_members(), len(self.model.regressor.elites)

        def predicted(y: Tensor, u: Tensor, base: Tensor) -> Tensor:
            told = encoding.tell(y[None], u[None]).expand(elites, 1, -1)
            return encoding.advance(base[None], members.means(told).mean(dim=0))[0]

        points = [_tensor(z, device) for z in (x[:-1], u, before)]
        by = torch.func.vmap(torch.func.jacrev(predicted, argnums=(0, 1, 2)))(*points)
        A, B, through = (z.detach().cpu().double().numpy() for z in by)
        if nominal is None:
            A = A + through
        else:
            dy, du = nominal.jacobian(x[:-1], u)
            A, B = A + through @ dy, B + through @ du
        return Linearization(A, B, np.broadcast_to(np.eye(encoding.ny), (len(x), encoding.ny, encoding.ny)))

    def policy_rollout(
        self,
        state: State,
        x: np.ndarray,
        u: np.ndarray,
        feedforward: np.ndarray,
        feedback: np.ndarray,
        steps: np.ndarray,
        limits: np.ndarray,
    ) -> Trajectories:
        """See `Differentiable.policy_rollout`; each step is the expected one."""
        n, horizon = len(steps), len(u)
        states, controls = np.empty((n, horizon + 1, self.tangent)), np.empty((n, horizon, u.shape[1]))
        states[:, 0] = state.y
        for k in range(horizon):
            away = self.difference(states[:, k], x[k])
            wanted = u[k] + steps[:, None] * feedforward[k] + away @ feedback[k].T
            controls[:, k] = np.clip(wanted, *limits)
            states[:, k + 1] = self.model.expected(states[:, k], controls[:, k])
        return Trajectories(states, states, controls, np.asarray(np.isfinite(states).all(axis=(1, 2))))

    # Branching --------------------------------------------------------------------------------------------------------

    def root(self, state: State) -> np.ndarray:
        """See `Branching.root`: a row is the readings."""
        return np.array(state.y, dtype=float)

    def branch(self, rows: np.ndarray, controls: np.ndarray, at: int, rng: np.random.Generator) -> Branches:
        """See `Branching.branch`: an elite is drawn for each row, with `ts1` anew at every step."""
        model = self.model
        encoding, elites = model.encoding, model.regressor.elites
        n, steps = controls.shape[:2]
        drawn = elites[rng.integers(len(elites), size=(steps, n))]
        if self.propagation != "ts1":
            drawn[:] = drawn[0]
        noise = rng.standard_normal((steps, n, encoding.outputs)) * (self.propagation != "mean")
        out, y = np.empty((n, steps, encoding.ny)), rows
        for k in range(steps):
            u = controls[:, k]
            mean, variance = model.regressor.predict(encoding.tell(y, u))
            mine = drawn[k], np.arange(n)
            out[:, k] = y = encoding.advance(model.before(y, u), mean[mine] + np.sqrt(variance[mine]) * noise[k])
        valid = np.logical_and.accumulate(np.isfinite(out).all(axis=2), axis=1)
        return Branches(out[:, at - 1].copy(), out, valid)

    def close(self) -> None:
        """Nothing is held."""


def check_particles(propagation: Propagation, particles: int, elites: int) -> None:
    """Raises a ValueError where so many particles can not be rolled out by so many elites."""
    if propagation != "mean" and (particles < 1 or particles % elites):
        raise ValueError(f"{particles} particles are not a multiple of the {elites} elites")
    if propagation == "moments" and particles < 2:
        raise ValueError("moments are matched by at least 2 particles")


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32, device=device)


def _summed(task: Task, y: Tensor, u: Tensor, times: Tensor) -> Tensor:
    """Costs (E, n) of readings (E, n, H, ny) reached at `times` (H,) under `u` (n, H, nu)."""
    costs = task.cost(y, u.expand(len(y), -1, -1, -1), times).sum(dim=-1)
    if any(term.terminal_weight for term in task.terms):
        costs = costs + task.terminal_cost(y[:, :, -1], u[:, -1].expand(len(y), -1, -1), times[-1])
    return costs


_known: dict[tuple[int, str], bool] = {}


def _in_torch(task: Task, device: torch.device) -> bool:
    """Whether the task's terms run in torch there, in float32, and cost what they do in NumPy; found out once."""
    key = id(task), str(device)
    if key not in _known:
        _known[key] = _runs_in_torch(task, device)
        weakref.finalize(task, _known.pop, key, None)
    return _known[key]


def _runs_in_torch(task: Task, device: torch.device) -> bool:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((1, 16, 5, task.robot.layout.size))
    u, times = rng.uniform(-1.0, 1.0, (16, 4, task.robot.nu)), np.sort(rng.uniform(0.0, 10.0, 4))
    try:
        with np.errstate(all="ignore"):
            expected = summed(task, y, u, times)
        found = _summed(task, *(_tensor(z, device) for z in (y[:, :, 1:], u, times))).cpu().numpy()
    except Exception:  # a residual is anyone's code: what it raises NumPy's evaluation tells, on readings that occur
        return False
    return np.allclose(found, expected, rtol=_AGREES, atol=_AGREES, equal_nan=True)
