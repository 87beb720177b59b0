"""Monte Carlo tree search, for continuous and for discrete controls.

A node is a state, an edge a control held (or a spline followed) for `segment` control steps. Simulations go down the
tree by a bandit's rule at each node, add a node, value it, and carry the return up; see `bandits.py` for the rules,
`tree.py` for the tree and `tree_search.py` for what a new node is worth. The plan is the principal variation: the
control most tried at the root, at the node it leads to, and so on, followed by the default policy.

Rewards are the task's costs negated, or its rewards; these where a value function was learned. Returns are
normalised to [0, 1] by the least and the greatest mean return in the tree, so that one exploration constant fits all
tasks (Schrittwieser et al., Mastering Atari, Go, chess and shogi by planning with a learned model, 2020).

Sources: Browne et al., A survey of Monte Carlo tree search methods, 2012; those named in `bandits.py`.
"""

import contextlib
import functools
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..robots.plugins import UnknownName
from ..robots.task import Task
from ..sim.branching import Branching, ClosedFormBranching, branching
from ..sim.interface import Dynamics, State
from . import splines
from .bandits import HOO, PUCT, UCT, Rule, Tree
from .guide import Guide, ValuedReturn, may_be_learned
from .plan import Explored, Plan
from .problem import Problem
from .sampling import require_at_least, require_share
from .splines import Spline
from .tree import BEST, VALUE, VISITS, deepest, keep, make, plant, principal
from .tree_search import DEFAULT, HOLD, RANDOM, Batched, Compiled, Job, Objective

RULES = {"uct": UCT, "puct": PUCT, "hoot": HOO}
EXECUTE = {"visits": VISITS, "value": VALUE, "best": BEST}
POLICIES = {"plan": DEFAULT, "rest": DEFAULT, "hold": HOLD, "random": RANDOM}
SHOWN = 200
"""At most so many edges are kept for viewers, the most visited first."""

LARGEST_GRID = 4096
"""Controls of a grid."""

KEPT = 8
"""Dynamics for which compiled searches are kept."""


@dataclass(frozen=True, eq=False)
class _Memory:
    """What a plan keeps of its search: the tree, and the edges of the principal variation."""

    planner: "MCTS"
    tree: Tree
    rule: Rule
    edges: list[int]


@dataclass(frozen=True, kw_only=True)
class MCTS:
    """Monte Carlo tree search.

    Attributes:
        horizon: control steps that a walk looks ahead, its rollout included.
        replan: control steps from one plan to the next; the used branch is kept where it is a whole number of segments.
        simulations: per plan.
        batch: walks under way at once, evaluated together.
        rule: `uct`, `puct` or `hoot`, see `bandits.py`.
        segment: control steps of an edge, at most the horizon; 0: as many as `replan`, so that the used branch is kept,
            if that is above 1 and the horizon a multiple of it, fourfold or more; else a tenth of the horizon, or the
            next smaller divisor of it.
        segment_knots: of the spline along an edge.
        segment_spline: its kind: `zero` (steps), `linear` or `cubic`.
        levels: of each control (and knot), evenly over its range: a grid of controls; 0: continuous controls. Dynamics
            with a finite set of controls have no need of it.
        width: most controls of a node.
        widening, widening_power: C and w: a node with N visits has at most C N^w continuous controls.
        local: share of new controls that are drawn near the node's best one rather than anywhere.
        local_width: their standard deviation, at most, in half ranges.
        exploration: c, of the bonus.
        bonus: `polynomial`, c N^a / n^b, or `logarithmic`.
        power, root: a and b.
        first_play: what a control not yet tried is taken to be worth beyond its node, in normalised returns; inf: each
            is tried once before one is tried again.
        siblings: whether returns are normalised among a node's own controls rather than over the tree.
        optimism: from 0 to 1: judges an edge by its mean return, or by its best one, which is right where nothing is
            random.
        virtual_loss: how bad a walk under way counts: 1 as the worst return, 0 as one more like those before.
        prior: of `puct`: `uniform`, or `plan`: normal about the plan before, of `prior_width` half ranges.
        prior_width: see `prior`.
        outcomes, outcomes_power: C and w of random transitions: an edge with n visits draws at most C n^w.
        cell_depth: of `hoot`: cells are cut so many times at most.
        cell_bonus, cell_decay: v and r of `hoot`.
        objective: maximise the `reward` of the task, or its negative `cost`.
        discount: of a control step.
        leaf: what a new node is worth: a `rollout` of the default policy, a `value` function, or `both`; by default
            (`auto`) the value function where there is one.
        mix: share of the value function in `both`.
        policy: by default: `plan`, the plan before goes on (without one, `rest`); `rest`, no control, or mid-range;
            `hold`, the last control goes on; `random` actions; or the folder of a trained run, whose policy also tells
            what is tried first at each depth: what it does from the root on.
        rollouts: of the default policy for a new node, where it is random and transitions are not.
        default: (readings (N, ny)) -> controls (N, nu): a default policy in place of `policy`, from Python only.
        value: folder of a trained run, whose value function also ends rollouts; the objective is the reward then, and
            the discount the value's, see `guide.py`. From Python also a function, (readings (N, ny)) -> expected sum of
            discounted rewards from there on (N,). Without one, the last reward is taken to go on to the horizon.
        reuse: whether the used branch is kept.
        drift: most that readings may differ from those of a kept branch, relative to their size where that is above 1.
        memory: most nodes that are kept, in simulations.
        transpositions: whether equal states are one node; for deterministic problems with few states.
        execute: the principal variation goes by `visits`, by mean `value`, or by the `best` return.

    Raises:
        ValueError: a setting outside its range; the message names it.
    """

    horizon: int = 60
    replan: int = 1
    simulations: int = 512
    batch: int = 8
    rule: Literal["uct", "puct", "hoot"] = "uct"
    segment: int = 0
    segment_knots: int = 1
    segment_spline: Spline = "zero"
    levels: int = 0
    width: int = 32
    widening: float = 1.0
    widening_power: float = 0.5
    local: float = 0.5
    local_width: float = 0.3
    exploration: float = 0.5
    bonus: Literal["polynomial", "logarithmic"] = "polynomial"
    power: float = 0.25
    root: float = 0.5
    first_play: float = math.inf
    siblings: bool = False
    optimism: float = 0.0
    virtual_loss: float = 1.0
    prior: Literal["uniform", "plan"] = "plan"
    prior_width: float = 0.5
    outcomes: float = 1.0
    outcomes_power: float = 0.5
    cell_depth: int = 4
    cell_bonus: float = 0.5
    cell_decay: float = 0.5
    objective: Literal["cost", "reward"] = "cost"
    discount: float = 1.0
    leaf: Literal["auto", "rollout", "value", "both"] = "auto"
    mix: float = 0.5
    policy: Literal["plan", "rest", "hold", "random"] | str = "plan"
    rollouts: int = 1
    default: Callable[[np.ndarray], np.ndarray] | None = None
    value: str | Callable[[np.ndarray], np.ndarray] = ""
    reuse: bool = True
    drift: float = 1e-3
    memory: float = 4.0
    transpositions: bool = False
    execute: Literal["visits", "value", "best"] = "visits"

    def __post_init__(self) -> None:
        require_at_least(self, horizon=1, replan=1, simulations=1, batch=1, segment=0, levels=0, width=1, rollouts=1)
        require_at_least(self, widening=0, local_width=0, exploration=0, power=0, root=0, prior_width=0, outcomes=0)
        require_at_least(self, cell_depth=0, cell_bonus=0, drift=0, memory=0)
        for name in ("widening_power", "local", "optimism", "virtual_loss", "outcomes_power", "mix", "discount"):
            require_share(self, name)
        require_share(self, "cell_decay")
        if not 1 <= self.segment_knots <= self.steps:
            raise ValueError(
                f"segment_knots is {self.segment_knots}; it must lie between 1 and {self.steps}, "
                "the control steps of an edge (segment)"
            )
        splines.check(self.steps, self.segment_knots, self.segment_spline)
        if self.levels == 1:
            raise ValueError("levels is 1; it must be 0 (continuous controls) or at least 2")
        if self.levels and self.rule == "hoot":
            raise ValueError(f"levels is {self.levels}; hoot cuts continuous controls by itself: set levels to 0")
        if math.isnan(self.first_play):
            raise ValueError("first_play is nan; it must be a number")
        for name, known in (
            ("rule", tuple(RULES)),
            ("bonus", ("polynomial", "logarithmic")),
            ("prior", ("uniform", "plan")),
            ("objective", ("cost", "reward")),
            ("leaf", ("auto", "rollout", "value", "both")),
            ("execute", tuple(EXECUTE)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")

    @property
    def guides(self) -> dict[str, str]:
        """Folders of what was learned, by use."""
        found = {"value": self.value} if self.value and isinstance(self.value, str) else {}
        return found if self.policy in POLICIES else {**found, "policy": self.policy}

    @property
    def steps(self) -> int:
        """Control steps of an edge."""
        if self.segment:
            return min(self.segment, self.horizon)
        if self.replan > 1 and self.horizon % self.replan == 0 and self.horizon >= 4 * self.replan:
            return self.replan
        return next(n for n in range(max(self.horizon // 10, 1), 0, -1) if self.horizon % n == 0)

    @property
    def depth(self) -> int:
        """Edges of the longest walk."""
        return self.horizon // self.steps

    def check(self, dynamics: Dynamics, task: Task) -> None:
        """Compiles what a search needs, so that the first plan need not wait for it.

        Raises:
            UnknownName: `policy` is neither one that trees have of themselves, nor one that was learned.
            ValueError: the settings do not fit the dynamics' controls.
        """
        learned = self.guides.get("policy")
        if learned and not may_be_learned(learned):
            raise UnknownName("policy", learned, (*POLICIES, "the folder of a trained run"))
        aim = self._aim(None, None)
        searcher = self._searcher(dynamics, task, aim)
        rng = np.random.default_rng(0)
        somewhere = State(0.0, np.zeros(task.robot.layout.size))
        limits = Problem(dynamics, task, somewhere, self.horizon, rng).limits
        reference = np.zeros((self.depth, self.segment_knots * task.robot.nu))
        rule = self._rule(searcher.branching, task, limits, reference, aim)
        tree = self._room(rule, 1, 1, task, 1, 0)
        plant(tree, rule, np.zeros(1), somewhere.y)
        nothing = np.zeros(1, np.int64)
        other = self._room(rule, 1, 1, task, 1, 0)
        keep(tree, other, rule, 0, 1, nothing, nothing - 1, aim.discount, self.horizon, self.steps, 0)
        deepest(tree, rule)
        principal(tree, rule, VISITS)
        searcher.compile(tree, rule, self._job(task, 0.0, np.zeros((self.horizon, task.robot.nu)), False, aim))

    def plan(self, problem: Problem, warm: Plan | None, rng: np.random.Generator) -> Plan:
        """A plan for `problem`; the branch of the tree of `warm` that was used is kept.

        Its `stats` are `simulations`, `nodes` and `depth` of the tree, how many of the nodes were `kept` from the plan
        before, and the `best` mean return of a control at the root.
        """
        aim = self._aim(problem.value, problem.policy)
        searcher = self._searcher(problem.dynamics, problem.task, aim)
        with searcher.busy:
            return self._search(searcher, aim, problem, warm, rng)

    def _search(
        self, searcher: "_Searcher", aim: "_Aim", problem: Problem, warm: Plan | None, rng: np.random.Generator
    ) -> Plan:
        task = problem.task
        proposed = problem.proposed()
        before = self._before(problem, warm) if proposed is None else proposed
        at = np.rint(splines.knot_steps(self.steps, self.segment_knots, self.segment_spline)).astype(int)
        edges = before[: self.depth * self.steps].reshape(self.depth, self.steps, -1)
        reference = np.ascontiguousarray(edges[:, at].reshape(self.depth, -1))
        row = searcher.branching.root(problem.state)
        rule = self._rule(searcher.branching, task, problem.limits, reference, aim)
        tree, kept = self._begin(problem, warm, rule, row, aim)
        goes_on = self.policy == "plan" or proposed is not None
        default = before if goes_on else self._rest(problem.limits)
        job = self._job(task, problem.state.time, default, rule.stochastic, aim)
        searcher.grow(tree, rule, job, problem.state, self.simulations, self.batch, rng)
        problem.evaluations += self.simulations * job.rollouts
        used = principal(tree, rule, EXECUTE[self.execute]).tolist()
        controls = default.copy()
        for k, edge in enumerate(used):
            knots = tree.actions[edge].reshape(self.segment_knots, -1)
            controls[k * self.steps : (k + 1) * self.steps] = job.basis @ knots
        if job.policy == HOLD:
            controls[len(used) * self.steps :] = controls[len(used) * self.steps - 1]
        cost = float(problem.cost(controls[None])[0])
        root = tree.edges[: tree.nodes[0]["width"]]
        tried = root[root["count"] > 0]
        return Plan(
            time=problem.state.time,
            dt=problem.dynamics.dt,
            controls=controls,
            cost=cost,
            prediction=problem.predicted(slice(1))[:, 0] if np.isfinite(cost) else None,
            stats={
                "evaluations": self.simulations * job.rollouts,
                "simulations": self.simulations,
                "nodes": int(tree.used[0]),
                "depth": int(deepest(tree, rule)),
                "kept": kept,
                "best": float((tried["sum"] / tried["count"]).max()),
            },
            memory=_Memory(self, tree, rule, used),
            explored=explored(tree, rule.width),
        )

    # What a search is made of ----------------------------------------------------------------------------------------

    def _aim(self, value: ValuedReturn | None, policy: Guide | None) -> "_Aim":
        """What is maximised, told of what was learned, where there is that."""
        own = self.value if callable(self.value) else None
        if value is None:
            return _Aim(
                discount=float(self.discount),
                reward=self.objective == "reward" or "value" in self.guides,
                value=own,
                policy=self.default if policy is None else policy.action,
                known=(policy, self.default, own),
                guided=bool(self.guides),
            )
        return _Aim(
            discount=value.discount,
            reward=True,
            rewards=value.rewards,
            value=value.guide.value,
            policy=self.default if policy is None else policy.action,
            known=(policy, self.default, value.guide),
            guided=True,
            bootstraps=True,
        )

    def _searcher(self, dynamics: Dynamics, task: Task, aim: "_Aim | None" = None) -> "_Searcher":
        """What grows trees on these dynamics; those used last are kept."""
        aim = aim or self._aim(None, None)
        key = (id(dynamics), id(task), aim.reward, aim.rewards, *map(id, aim.known))
        with _lock:
            found = _searchers.pop(key, None) or _Searcher(dynamics, task, aim)
            _searchers[key] = found  # which holds what the key names: no other object gets its place
            if len(_searchers) > KEPT:
                _searchers.pop(next(iter(_searchers)))
        return found

    def _rest(self, limits: np.ndarray) -> np.ndarray:
        """No control (horizon, nu), or mid-range where zero is not allowed."""
        low, high = limits
        return np.tile(np.where((low <= 0.0) & (high >= 0.0), 0.0, 0.5 * (low + high)), (self.horizon, 1))

    def _before(self, problem: Problem, warm: Plan | None) -> np.ndarray:
        """The plan before (horizon, nu), shifted; beyond its end there is no control."""
        rest = self._rest(problem.limits)
        if warm is None:
            return rest
        first = max(warm.step_at(problem.state.time), 0)
        left = warm.controls[first : first + self.horizon]
        rest[: len(left)] = left
        return rest

    def _rule(self, model: Branching, task: Task, limits: np.ndarray, reference: np.ndarray, aim: "_Aim") -> Rule:
        """The settings as numba takes them.

        Raises:
            ValueError: they do not fit the controls.
        """
        low, high = (np.tile(limit, self.segment_knots) for limit in limits)
        if model.choices is not None:
            if self.segment_knots > 1 or self.rule == "hoot":
                what = "rule = hoot" if self.rule == "hoot" else f"segment_knots = {self.segment_knots}"
                raise ValueError(f"{task.name} has {len(model.choices)} controls to choose from: {what} does not apply")
            choices = np.ascontiguousarray(model.choices, float)
        elif self.levels:
            choices = grid(low.tobytes(), high.tobytes(), self.levels)
        else:
            choices = np.zeros((0, len(low)))
        width = len(choices) or min(self.width, self.simulations + 1)
        if self.rule == "hoot":
            width = min(3**self.cell_depth, max(self.width, 3))
        return Rule(
            kind=RULES[self.rule],
            width=width,
            depth=self.depth,
            discount=float(aim.discount**self.steps),
            exploration=float(self.exploration),
            power=float(self.power),
            root=float(self.root),
            logarithmic=self.bonus == "logarithmic",
            first_play=float(self.first_play),
            siblings=bool(self.siblings),
            optimism=float(self.optimism),
            virtual_loss=float(self.virtual_loss),
            widening=float(self.widening),
            widening_power=float(self.widening_power),
            local=float(self.local),
            local_width=float(self.local_width),
            prior_width=float(self.prior_width) if self.rule == "puct" and self.prior == "plan" else 0.0,
            stochastic=bool(model.stochastic),
            outcomes=float(self.outcomes),
            outcomes_power=float(self.outcomes_power),
            cell_depth=self.cell_depth,
            cell_bonus=float(self.cell_bonus),
            cell_decay=float(self.cell_decay),
            choices=choices,
            low=low,
            high=high,
            reference=reference,
        )

    def _job(self, task: Task, time: float, default: np.ndarray, stochastic: bool, aim: "_Aim") -> Job:
        leaf = self.leaf
        if leaf == "auto":
            leaf = "value" if aim.value is not None else "rollout"
        return Job(
            segment=self.steps,
            horizon=self.horizon,
            discount=aim.discount,
            rollouts=self.rollouts if self.policy == "random" and leaf != "value" and not stochastic else 1,
            policy=POLICIES.get(self.policy, DEFAULT) if aim.policy is None else DEFAULT,
            share={"rollout": 0.0, "value": 1.0, "both": float(self.mix)}[leaf],
            given=aim.value is not None,
            bootstraps=aim.bootstraps,
            absorbing=not aim.reward,
            time=float(time),
            dt=float(task.robot.dt),
            controls=default,
            basis=np.array(splines.basis(self.steps, self.segment_knots, self.segment_spline)),
        )

    def _room(self, rule: Rule, nodes: int, rows: int, task: Task, batch: int, cells: int) -> Tree:
        size = (nodes, rule.width, rows, task.robot.layout.size, len(rule.low), batch, rule.depth)
        return make(*size, cells + nodes if rule.kind == HOO else 0, self.transpositions)

    def _begin(self, problem: Problem, warm: Plan | None, rule: Rule, row: np.ndarray, aim: "_Aim") -> tuple[Tree, int]:
        """The tree to grow, and how many nodes of it there are already."""
        more = self.simulations + 1
        cuts = 3 * self.simulations * self.depth
        old, root = self._used(problem, warm, rule, row)
        if old is None:
            tree = self._room(rule, more, len(row), problem.task, self.batch, cuts)
            plant(tree, rule, row, problem.state.y)
            return tree, 0
        most = int(min(old.used[0], max(self.memory * self.simulations, 1)))
        tree = self._room(rule, most + more, len(row), problem.task, self.batch, cuts + int(old.used[1]))
        queue, place = np.empty(most, np.int64), np.full(len(old.nodes), -1)
        steps = warm.step_at(problem.state.time) if warm is not None else 0
        keep(old, tree, rule, root, most, queue, place, aim.discount, self.horizon, self.steps, steps)
        tree.rows[0], tree.y[0] = row, problem.state.y
        return tree, int(tree.used[0])

    def _used(self, problem: Problem, warm: Plan | None, rule: Rule, row: np.ndarray) -> tuple[Tree | None, int]:
        """The tree of the plan before and the node of it at which `problem` begins, if it is to be kept."""
        if warm is None or not self.reuse or not isinstance(warm.memory, _Memory) or warm.memory.planner != self:
            return None, 0
        memory, steps = warm.memory, warm.step_at(problem.state.time)
        edges, odd = divmod(steps, self.steps)
        tree, width = memory.tree, memory.rule.width
        if odd or not 0 < edges <= len(memory.edges):
            return None, 0
        sizes = tree.y.shape[1], tree.rows.shape[1], tree.actions.shape[1], width
        if sizes != (len(problem.state.y), len(row), len(rule.low), rule.width):
            return None, 0  # of another model
        at = int(tree.edges[memory.edges[edges - 1]]["child"])
        allowed = self.drift * np.maximum(np.abs(problem.state.y), 1.0)
        while at >= 0:
            if not tree.nodes[at]["ended"] and (np.abs(tree.y[at] - problem.state.y) <= allowed).all():
                return tree, at
            at = int(tree.nodes[at]["sibling"])
        return None, 0


@dataclass(frozen=True, eq=False)
class _Aim:
    """What a search maximises, and what it was told of it.

    Attributes:
        discount: of a control step.
        reward: whether it is the task's reward, or its negative cost.
        rewards: that a step counts for.
        value: (readings (N, ny)) -> what is to come (N,), or None.
        policy: (readings (N, ny)) -> controls (N, nu), the default policy, or None.
        known: the objects that these are of.
        guided: whether something was learned, and there are calls that native code can not make.
        bootstraps: whether rollouts end in the value function.
    """

    discount: float
    reward: bool
    rewards: float = 1.0
    value: Callable[[np.ndarray], np.ndarray] | None = None
    policy: Callable[[np.ndarray], np.ndarray] | None = None
    known: tuple[object, ...] = ()
    guided: bool = False
    bootstraps: bool = False


class _Searcher:
    """Grows trees on some dynamics: in native code where that can be, else batch by batch."""

    def __init__(self, dynamics: Dynamics, task: Task, aim: _Aim) -> None:
        self.busy = threading.Lock()  # its memory, and that of the dynamics, serves one plan at a time
        self.aim = aim
        self.branching = branching(dynamics, task)
        self.objective = Objective(task, aim.reward, aim.rewards)
        self._search: Compiled | Batched = Batched(self.branching, self.objective, aim.policy, aim.value)
        asks = aim.guided or aim.policy is not None or aim.value is not None
        if isinstance(self.branching, ClosedFormBranching) and not asks:
            with contextlib.suppress(ValueError):  # terms that do not trace, or no native code: NumPy evaluates them
                self._search = Compiled(self.branching, self.objective)

    @property
    def compiled(self) -> bool:
        """Whether searches are native code from first to last."""
        return isinstance(self._search, Compiled)

    def grow(self, tree: Tree, rule: Rule, job: Job, state: Any, simulations: int, batch: int, rng: Any) -> None:
        """See `Compiled.grow`."""
        self._search.grow(tree, rule, job, state, simulations, batch, rng)

    def compile(self, tree: Tree, rule: Rule, job: Job) -> None:
        """Compiles what `grow` calls."""
        self._search.compile(tree, rule, job)


_lock = threading.Lock()
_searchers: dict[Any, _Searcher] = {}


@functools.lru_cache(maxsize=32)
def grid(low: bytes, high: bytes, levels: int) -> np.ndarray:
    """All combinations of `levels` values of each number of an action, (levels^na, na).

    The first is the one nearest to no control; each next one is as far as can be from those before, so that a node's
    first few controls are spread.

    Args:
        low: least values (na,) of float64.
        high: greatest ones.
        levels: at least 2.

    Raises:
        ValueError: there would be too many.
    """
    least, greatest = np.frombuffer(low), np.frombuffer(high)
    if levels ** len(least) > LARGEST_GRID:
        raise ValueError(
            f"levels is {levels}: {levels}^{len(least)} controls are more than {LARGEST_GRID}; "
            f"continuous controls (levels 0) have no grid"
        )
    points = np.array(list(itertools.product(*np.linspace(least, greatest, levels).T)))
    half = 0.5 * (greatest - least)
    scaled = points / np.where(half > 0.0, half, 1.0)
    order = [int((scaled**2).sum(1).argmin())]
    distance = ((scaled - scaled[order[0]]) ** 2).sum(1)
    while len(order) < len(points):
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, ((scaled - scaled[order[-1]]) ** 2).sum(1))
        distance[order] = -1.0
    return np.ascontiguousarray(points[order])


def explored(tree: Tree, width: int) -> Explored:
    """The most visited edges, for viewers."""
    count = int(tree.used[0])
    nodes = tree.nodes[1:count]
    order = np.argsort(-nodes["visits"], kind="stable")[:SHOWN]
    order = order[nodes["parent"][order] >= 0]
    some = nodes[order]
    parents = some["parent"] // width
    lines = np.stack((tree.y[parents], tree.y[1 + order]), axis=1)
    edge = tree.edges[some["parent"]]
    return Explored(lines, edge["sum"] / np.maximum(edge["count"], 1))
