"""Growing a search tree: transitions asked for in batches, from any dynamics, or in native code from first to last.

A wave is as many walks as are under way at once. Their transitions, and the rollouts of the default policy that value
new leaves, are one batch: each begins at its own node, takes its edge's controls and then the default policy's, up to
the horizon that all walks share. With r_j the reward of step j of m, g the discount of a step,

    reward of the edge = sum_{j<m} g^j r_j,    value of the leaf = (1 - w) sum_{j>=m} g^(j-m) r_j + w V(y_m)

and where rollouts end in a value function, the sum has g^(h-m) V(y_h) too, with h the step at the horizon's end.

Of a robot in closed form with terms that trace, a step and its reward are one compiled function, which the loop calls
by its address.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..robots.task import Task
from ..sim import codegen
from ..sim.branching import Branching, ClosedFormBranching
from ..sim.closed_form import LARGEST
from ..sim.interface import State
from ..sim.products import call
from .bandits import BROKEN, Rule, Tree, native
from .tracing import traced
from .tree import ASKING, attach, begin, finish, resume

DEFAULT, HOLD, RANDOM = 0, 1, 2


class Job(NamedTuple):
    """How new leaves are valued, as numba takes it.

    Attributes:
        segment: control steps m of an edge.
        horizon: control steps of a whole walk with its rollout.
        discount: g, of a control step.
        rollouts: of the default policy from each new leaf.
        policy: `DEFAULT` follows `controls`, `HOLD` keeps the last control, `RANDOM` draws actions.
        share: w of the value function.
        given: whether there is one; else the last step's reward is taken to go on.
        bootstraps: whether rollouts end in it.
        absorbing: whether a state that has ended goes on paying its last reward.
        time: of the root [s].
        dt: control period [s].
        controls: of the default policy, from the root's time on (horizon, nu).
        basis: from knots to controls of an edge (m, knots).
    """

    segment: int
    horizon: int
    discount: float
    rollouts: int
    policy: int
    share: float
    given: bool
    bootstraps: bool
    absorbing: bool
    time: float
    dt: float
    controls: Any
    basis: Any


@native
def fill(tree, rule, job, walks, u, times, parents, rng):  # type: ignore[no-untyped-def]
    """Writes the controls of the walks that ask, and when their steps end.

    Args:
        tree: whose walks these are.
        rule: its settings.
        job: what a leaf is worth.
        walks: number of walks.
        u: controls (walks * rollouts, horizon, nu), to be filled.
        times: (walks * rollouts, horizon) [s], to be filled.
        parents: nodes that they begin at (walks * rollouts,), to be filled.
        rng: draws the default policy's actions.

    Returns:
        How many transitions there are, and how many steps they need at most.
    """
    points, most = 0, 0
    nu, m, knots = u.shape[2], job.segment, job.basis.shape[1]
    random = np.empty(rule.low.size)
    for b in range(walks):
        walk = tree.walks[b]
        if walk.status != ASKING:
            continue
        edge, begun = tree.path[b, walk.length], walk.length * m
        steps = m if job.share == 1.0 else job.horizon - begun
        most = max(most, steps)
        for _ in range(job.rollouts):
            parents[points] = tree.trail[b, walk.length]
            for j in range(steps):
                times[points, j] = job.time + (begun + j + 1) * job.dt
                if j < m:
                    for i in range(nu):
                        value = 0.0
                        for k in range(knots):
                            value += job.basis[j, k] * tree.actions[edge, k * nu + i]
                        u[points, j, i] = value
                elif job.policy == RANDOM:
                    if j % m == 0:
                        if len(rule.choices):
                            choice = rule.choices[int(rng.random() * len(rule.choices))]
                            for k in range(random.size):
                                random[k] = choice[k]
                        else:
                            for k in range(random.size):
                                random[k] = rule.low[k] + (rule.high[k] - rule.low[k]) * rng.random()
                    for i in range(nu):
                        value = 0.0
                        for k in range(knots):
                            value += job.basis[j % m, k] * random[k * nu + i]
                        u[points, j, i] = value
                else:
                    for i in range(nu):
                        u[points, j, i] = u[points, j - 1, i] if job.policy == HOLD else job.controls[begun + j, i]
            points += 1
    return points, most


@native
def tell(tree, rule, job, walks, rows, y, r, final, ends, bad, values):  # type: ignore[no-untyped-def]
    """Attaches the transitions that `fill` asked for, in its order.

    Args:
        tree: whose walks these are.
        rule: its settings.
        job: what a leaf is worth.
        walks: number of walks.
        rows: at the edges' ends (points, n).
        y: readings there (points, ny).
        r: rewards (points, steps).
        final: what comes on top at the horizon's end (points,).
        ends: whether the state after each step is an ended one (points, steps).
        bad: the first step that is invalid, or the number of steps (points,).
        values: of the value function at the edges' ends (points,), where there is one.
    """
    point, m = 0, job.segment
    for b in range(walks):
        walk = tree.walks[b]
        if walk.status != ASKING:
            continue
        begun = walk.length * m
        steps, left = m if job.share == 1.0 else job.horizon - begun, job.horizon - begun - m
        first = point
        # Nothing is left to roll out: only the value function tells more.
        share = 1.0 if job.bootstraps and left == 0 else job.share
        walk.value, walk.tail = 0.0, 0.0
        for _ in range(job.rollouts):
            gain, weight, last, over = 0.0, 1.0, 0.0, False
            broken, lost = bad[point] < steps, bad[point] < m
            for j in range(min(steps, bad[point])):
                if j == m:
                    gain, weight = 0.0, 1.0
                if not over:
                    last = r[point, j]
                    over = ends[point, j] != 0.0
                elif not job.absorbing:
                    last = 0.0
                gain += weight * last
                if begun + j + 1 == job.horizon:
                    gain += weight * final[point]
                weight *= job.discount
                if j == m - 1:
                    walk.reward = gain
                    walk.ended = int(over)
            if lost:
                # As bad as anything so far, and not to be tried again.
                walk.reward = _worst(tree)
                walk.ended = BROKEN
            if lost or steps == m:
                gain = 0.0
            elif broken:
                gain = _worst(tree)
            if share > 0.0 and not lost:
                if walk.ended != 0 and not job.absorbing:
                    value = 0.0
                elif job.given and walk.ended == 0:
                    value = values[point]
                else:
                    # As if the last reward went on.
                    whole = left if job.discount == 1.0 else (1.0 - job.discount**left) / (1.0 - job.discount)
                    value = r[point, m - 1] * whole
                gain = (1.0 - share) * gain + share * value
            walk.value += gain / job.rollouts
            if over and not job.absorbing:
                last = 0.0
            if not broken and not job.bootstraps:
                walk.tail += last * (1.0 - job.share if job.given else 1.0) / job.rollouts
            point += 1
        attach(tree, rule, b, rows[first], y[first])


@native
def _worst(tree):  # type: ignore[no-untyped-def]
    """A return as bad as any so far."""
    return tree.span[0] if tree.span[0] < np.inf else -1.0


@native
def wave_size(done, simulations, batch):  # type: ignore[no-untyped-def]
    """Walks to send at once: no more than there have been, so that the first do not all go one way."""
    return min(batch, simulations - done, max(done, 1))


@native
def turn(  # type: ignore[no-untyped-def]
    tree, rule, job, progress, simulations, batch, u, times, parents, rows, y, r, final, ends, bad, values, rng
):
    """Takes in the transitions asked for before, if there are, and goes on until more are needed.

    Args:
        tree: grows.
        rule: its settings.
        job: what a leaf is worth.
        progress: simulations done, and walks under way; zeros at first.
        simulations: to be done.
        batch: walks at once.
        u: see `fill`, and so are `times` and `parents`.
        times: [s].
        parents: nodes.
        rows: see `tell`, and so are `y`, `r`, `final`, `ends`, `bad` and `values`.
        y: readings.
        r: rewards.
        final: rewards at the horizon's end.
        ends: of episodes.
        bad: first invalid steps.
        values: of the value function.
        rng: draws.

    Returns:
        As `fill`; zeros once all is done.
    """
    asking = 0
    if progress[1] > 0:
        tell(tree, rule, job, progress[1], rows, y, r, final, ends, bad, values)
        asking = resume(tree, rule, progress[1], rng)
    while asking == 0:
        if progress[1] > 0:
            finish(tree, rule, progress[1])
            progress[0] += progress[1]
            progress[1] = 0
        if progress[0] >= simulations:
            return 0, 0
        progress[1] = wave_size(progress[0], simulations, batch)
        asking = begin(tree, rule, progress[1], rng)
    return fill(tree, rule, job, progress[1], u, times, parents, rng)


class Memory(NamedTuple):
    """What compiled steps read and write, for P points and the horizon's H steps.

    Attributes:
        x: (P, H + 1, nx).
        u: (P, H, nu).
        times: (P, H) [s].
        r: rewards (P, H).
        terminal: what would come on top if the horizon ended there (P, H).
        final: what does (P,).
        ends: not 0 in ended states (P, H).
        y: readings at the edges' ends (P, ny).
        rows: (P, n).
        parents, bad: (P,).
        values: (P,), not used.
    """

    x: Any
    u: Any
    times: Any
    r: Any
    terminal: Any
    final: Any
    ends: Any
    y: Any
    rows: Any
    parents: Any
    bad: Any
    values: Any


@native
def grow(  # type: ignore[no-untyped-def]
    tree, rule, job, step, step_table, observe, observe_table, memory, clocked, simulations, batch, rng
):
    """Adds `simulations` simulations to the tree, `batch` at a time, with compiled steps."""
    nx, m, progress = memory.x.shape[2], memory, np.zeros(2, np.int64)
    while True:
        points, steps = turn(
            tree, rule, job, progress, simulations, batch,
            m.u, m.times, m.parents, m.rows, m.y, m.r, m.final, m.ends, m.bad, m.values, rng,
        )  # fmt: skip
        if points == 0:
            break
        for p in range(points):
            for i in range(nx):
                m.x[p, 0, i] = tree.rows[m.parents[p], i]
        call(step, points, steps, step_table)
        call(observe, points, 1, observe_table)
        for p in range(points):
            for i in range(nx):
                m.rows[p, i] = m.x[p, job.segment, i]
            if clocked:
                m.rows[p, nx] = m.times[p, job.segment - 1]
            m.bad[p] = steps
            for j in range(steps):
                good = -np.inf < m.r[p, j] < np.inf
                for i in range(nx):
                    good = good and abs(m.x[p, j + 1, i]) < LARGEST
                if not good:
                    m.bad[p] = j
                    break
            last = job.horizon - round((m.times[p, 0] - job.time) / job.dt)
            m.final[p] = m.terminal[p, last] if last < steps else 0.0
            if not -np.inf < m.final[p] < np.inf:
                m.bad[p] = min(m.bad[p], last)


def _address_of(kernel: codegen.Kernel) -> int:
    """Where a kernel's native code begins."""
    entry = codegen.told(kernel.bind(1, 1, np.zeros((1, 3), np.int64)))
    assert entry is not None
    return entry[0]


class Objective:
    """What a tree search maximises, step by step: the task's reward, or its cost negated.

    Args:
        task: scores.
        reward: its reward rather than its cost.
        rewards: that a step counts for.
    """

    def __init__(self, task: Task, reward: bool, rewards: float = 1.0) -> None:
        self.task, self.reward, self.rewards = task, reward, rewards
        self.terminal = not reward and any(term.terminal_weight for term in task.terms)

    def step(self, y: Any, u: Any, t: Any) -> Any:
        """Of reaching readings `y` (..., ny) by `u` (..., nu) at `t` [s], (...)."""
        if not self.reward:
            return -self.task.cost(y, u, t)
        scored = self.task.reward(y, u)
        return scored if self.rewards == 1.0 else self.rewards * scored

    def last(self, y: Any, u: Any, t: Any) -> Any:
        """What comes on top at the horizon's end, (...)."""
        return -self.task.terminal_cost(y, u, t)


class Compiled:
    """A robot in closed form and an objective that traces, in native code.

    Args:
        branching: of the robot.
        objective: to be compiled with it.

    Raises:
        ValueError: something does not trace, or there is no native code.
    """

    def __init__(self, branching: ClosedFormBranching, objective: Objective) -> None:
        self.branching = branching
        model, task = branching.model, objective.task
        self.model = model
        self.step, self.observe = _kernels(model, task, objective)
        self._constants = np.zeros(max(len(model.constant), 1))
        self._memory: dict[tuple[int, int, int], tuple[Memory, Any, Any]] = {}
        self._entries = [_address_of(kernel) for kernel in (self.step, self.observe)]

    def grow(
        self, tree: Tree, rule: Rule, job: Job, state: State, simulations: int, batch: int, rng: np.random.Generator
    ) -> None:
        """Adds simulations to a tree whose root is at `state`, `batch` at a time."""
        memory, steps, sees = self._room(batch * job.rollouts, job.horizon, job.segment)
        self._constants[: len(self.model.constant)] = state.y[self.model.constant]
        grow(
            tree,
            rule,
            job,
            self._entries[0],
            steps.ctypes.data,
            self._entries[1],
            sees.ctypes.data,
            memory,
            bool(self.model.clocks),
            simulations,
            batch,
            rng,
        )

    def compile(self, tree: Tree, rule: Rule, job: Job) -> None:
        """Compiles the search, unless that is on disk."""
        self.grow(tree, rule, job, State(0.0, np.zeros(self.model.robot.layout.size)), 0, 1, np.random.default_rng(0))

    def _room(self, points: int, horizon: int, segment: int) -> tuple[Memory, Any, Any]:
        key = (points, horizon, segment)
        if key not in self._memory:
            s, ny = self.model.symbolic, self.model.robot.layout.size
            m = Memory(
                x=np.zeros((points, horizon + 1, s.nx)),
                u=np.zeros((points, horizon, s.nu)),
                times=np.zeros((points, horizon)),
                r=np.zeros((points, horizon)),
                terminal=np.zeros((points, horizon)),
                final=np.zeros(points),
                ends=np.zeros((points, horizon)),
                y=np.zeros((points, ny)),
                rows=np.zeros((points, s.nx + bool(self.model.clocks))),
                parents=np.zeros(points, np.int64),
                bad=np.zeros(points, np.int64),
                values=np.zeros(points),
            )
            rows = codegen.rows
            constants = rows(self._constants, 0, None, None)
            steps = [rows(m.x[:, :-1], 2, 0, 1), rows(m.u, 2, 0, 1), rows(m.times[..., None], 2, 0, 1), constants]
            steps += [rows(m.x[:, 1:], 2, 0, 1)]
            steps += [rows(a[..., None], 2, 0, 1) for a in (m.r, m.terminal, m.ends)]
            sees = [rows(m.x[:, segment], 1, 0, None), rows(m.times[:, segment - 1 : segment], 1, 0, None), constants]
            sees += [rows(m.y, 1, 0, None)]
            self._memory[key] = m, np.concatenate(steps), np.concatenate(sees)
        return self._memory[key]


def _kernels(model: Any, task: Task, objective: Objective) -> tuple[codegen.Kernel, codegen.Kernel]:
    """(x, u, t, constants) -> (the state after a step, reward, reward at the end, ended); (x, t, constants) -> y."""
    import casadi as ca

    s = model.symbolic
    x, u, t = ca.SX.sym("x", s.nx), ca.SX.sym("u", s.nu), ca.SX.sym("t")
    given = ca.SX.sym("given", max(len(model.constant), 1))

    def seen(at: Any) -> Any:
        y = model.readings(at)
        for k, entry in enumerate(model.constant):
            y[entry] = given[k]
        for entry in model.clocks:
            y[entry] = t
        return y

    def of(evaluate: Callable[..., Any], y: Any) -> Any:
        return traced(task, evaluate)(y, u, t)

    end = model.step.function(x, model._limited(u))
    y = seen(end)
    reward = of(objective.step, y)
    last = of(objective.last, y) if objective.terminal else ca.SX(0.0)
    over = ca.SX(0.0)
    if task.end is not None:
        over = of(lambda y, u, t: 1.0 * task.terminated(y), y)
    if not reward.numel() == last.numel() == over.numel() == 1:
        raise ValueError(f"{task.name}'s terms do not give one number")
    step = ca.Function("step", [x, u, t, given], [end, reward, last, over], {"cse": True})
    observe = ca.Function("observe", [x, t, given], [seen(x)], {"cse": True})
    kernels = codegen.compile(step, nan="kept"), codegen.compile(observe, nan="kept")
    if not all(kernel.native for kernel in kernels):
        raise ValueError("there is no native code here")
    return kernels


class Batched:
    """Any dynamics, a batch of transitions at a time.

    Args:
        branching: the dynamics.
        objective: what is maximised.
        policy: (readings (N, ny)) -> controls (N, nu): the default policy; None: the one that jobs name.
        value: (readings (N, ny)) -> expected sum of discounted rewards from there on (N,), or None.
    """

    def __init__(
        self,
        branching: Branching,
        objective: Objective,
        policy: Callable[[np.ndarray], np.ndarray] | None = None,
        value: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.branching, self.objective, self.policy, self.value = branching, objective, policy, value

    def grow(
        self, tree: Tree, rule: Rule, job: Job, state: State, simulations: int, batch: int, rng: np.random.Generator
    ) -> None:
        """Adds simulations to a tree whose root is at `state`, `batch` at a time."""
        room = batch * job.rollouts
        u, times = np.zeros((room, job.horizon, job.controls.shape[1])), np.zeros((room, job.horizon))
        parents, progress = np.zeros(room, np.int64), np.zeros(2, np.int64)
        told: tuple[Any, ...] = tree.rows[:0], tree.y[:0], times[:0], times[0, :0], times[:0], parents[:0], times[0, :0]
        while True:
            points, steps = turn(
                tree, rule, job, progress, simulations, batch, u, times, parents, *told, rng
            )  # fmt: skip
            if not points:
                break
            told = self._evaluate(job, tree.rows[parents[:points]], u[:points, :steps], times[:points, :steps], rng)

    def compile(self, tree: Tree, rule: Rule, job: Job) -> None:
        """Compiles the search, unless that is on disk."""
        self.grow(tree, rule, job, State(0.0, tree.y[0]), 0, 1, np.random.default_rng(0))

    def _evaluate(
        self, job: Job, rows: np.ndarray, u: np.ndarray, times: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        """What `tell` is to be told of transitions from `rows` under `u`, their steps ending at `times`."""
        m, steps = job.segment, u.shape[1]
        if self.policy is None:
            found = self.branching.branch(rows, u, m, rng)
            ends, y, valid = found.rows, found.y, found.valid
        else:
            found = self.branching.branch(rows, np.ascontiguousarray(u[:, :m]), m, rng)
            ends, now = found.rows, found.rows
            parts, checks = [np.array(found.y)], [found.valid]
            for j in range(m, steps):
                u[:, j] = self.policy(parts[-1][:, -1])
                found = self.branching.branch(now, u[:, j : j + 1].copy(), 1, rng)
                now = found.rows
                parts.append(np.array(found.y))
                checks.append(found.valid)
            y, valid = np.concatenate(parts, 1), np.logical_and.accumulate(np.concatenate(checks, 1), axis=1)
        with np.errstate(all="ignore"):
            r = np.array(np.broadcast_to(self.objective.step(y, u, times), u.shape[:2]), float)
            final, valid = np.zeros(len(rows)), np.array(valid)
            if self.objective.terminal:
                last = np.rint((job.time + job.horizon * job.dt - times[:, 0]) / job.dt).astype(int)
                at = np.flatnonzero(last < steps)
                end = last[at]
                final[at] = self.objective.last(y[at, end], u[at, end], times[at, end])
                valid[at, end] &= np.isfinite(final[at])
        over = np.asarray(self.objective.task.terminated(y), float)
        if job.bootstraps and self.value is not None:
            last = np.rint((job.time + job.horizon * job.dt - times[:, 0]) / job.dt).astype(int)
            at = np.flatnonzero((m <= last) & (last < steps))
            open_ = ~np.logical_or.accumulate(over[at] != 0.0, axis=1)[np.arange(len(at)), last[at]]
            at = at[open_]
            final[at] = job.discount * self.value(np.ascontiguousarray(y[at, last[at]]))
        good = valid & np.isfinite(r)
        bad = np.where(good.all(1), steps, good.argmin(1))
        reached = np.ascontiguousarray(y[:, m - 1])
        values = np.zeros(len(rows))
        if self.value is not None:
            values = np.ascontiguousarray(self.value(reached), float)
        return np.ascontiguousarray(ends), reached, r, final, over, bad, values
