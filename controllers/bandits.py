"""How a node of a search tree chooses which control to try: UCT, PUCT, HOO; widening; first-play urgency.

With N visits of the node, n_k and q_k those and the mean return of its k-th control, q normalised to [0, 1], P_k priors
that sum to one:

    uct     argmax q_k + c N^a / n_k^b               (or c sqrt(log N / n_k))
    puct    argmax q_k + c P_k sqrt(N) / (1 + n_k)
    hoo     descends cells of the box of controls by B = min(U, max B of its thirds),
            U = q + c N^a / n^b + v r^depth, and tries the centre of the cell where it ends

A node with continuous controls has at most C N^w of them (progressive widening). Cells are cut in three along one side
after the other, so that the middle third keeps its parent's control and what is known about it; they are cut up to a
limited depth, where controls are tried again and the tree grows on.

Sources: Kocsis and Szepesvari, Bandit based Monte-Carlo planning, 2006; Shah, Xie and Xu, Non-asymptotic analysis of
Monte Carlo tree search, 2020 (polynomial bonus); Rosin, Multi-armed bandits with episode context, 2011 (PUCT); Gelly
and Wang, Exploration exploitation in Go, 2006 (first-play urgency); Couetoux et al., Continuous upper confidence trees,
2011 (widening); Bubeck et al., X-armed bandits, 2011 (HOO); Mao et al., POLY-HOOT, 2020 (HOO at the nodes, polynomial
bonus, limited depth); Chaslot, Winands and van den Herik, Parallel Monte-Carlo tree search, 2008 (virtual loss).
"""

from typing import Any, NamedTuple

import numpy as np

from ..sim.jit import compiled

UCT, PUCT, HOO = 0, 1, 2
NONE = -1
BROKEN = 2

NODE = np.dtype(
    [
        ("parent", np.int64),  # edge that first led here
        ("visits", np.int64),
        ("inflight", np.int64),  # walks under way through it
        ("total", np.float64),  # of the returns from here on
        ("leaf", np.float64),  # what it was valued at when it was new
        ("tail", np.float64),  # reward of the last step before the horizon, as that value has it
        ("reward", np.float64),  # of the control that led here
        ("sibling", np.int64),  # next outcome of the same edge
        ("drawn", np.int64),  # how often the edge led here when it was drawn anew
        ("width", np.int64),  # edges in use
        ("cells", np.int64),  # newest cell
        ("ended", np.int64),  # 1 at an episode's end; `BROKEN` where the prediction broke down
    ],
    align=True,
)
"""A node: a state."""

EDGE = np.dtype(
    [
        ("count", np.int64),
        ("inflight", np.int64),
        ("sum", np.float64),  # of the returns
        ("best", np.float64),  # of the returns
        ("prior", np.float64),
        ("child", np.int64),  # newest outcome
        ("draws", np.int64),
        ("cell", np.int64),  # whose centre it is
    ],
    align=True,
)
"""An edge: a control at a node. Those of node i are i K .. (i + 1) K - 1."""

CELL = np.dtype(
    [
        ("parent", np.int64),
        ("before", np.int64),  # the node's next older cell
        ("kids", np.int64),  # first of three
        ("edge", np.int64),
        ("count", np.int64),
        ("inflight", np.int64),
        ("sum", np.float64),
        ("bound", np.float64),
        ("depth", np.int64),
    ],
    align=True,
)
"""A cell of the box of controls at a node."""

WALK = np.dtype(
    [
        ("length", np.int64),  # edges behind it
        ("status", np.int64),
        ("value", np.float64),  # the return beyond its last node
        ("reward", np.float64),  # of the transition that it asked for; as for a node, so are `tail` and `ended`
        ("tail", np.float64),
        ("ended", np.int64),
    ],
    align=True,
)
"""A simulation under way."""


class Tree(NamedTuple):
    """Arrays of one tree: room for M nodes with K edges each, C cells; B walks of at most D edges.

    Attributes:
        nodes, edges, cells: (M,), (M K,), (C,), see `NODE`, `EDGE`, `CELL`.
        rows: what the dynamics continue from (M, n).
        y: readings (M, ny).
        actions: (M K, na).
        boxes: least and greatest action of each cell (C, 2, na).
        walks: (B,), see `WALK`.
        path: edges (B, D), and nodes (B, D + 1) that they begin at or lead to.
        trail: see `path`.
        used: numbers of nodes and of cells.
        span: least and greatest mean return of any edge so far (2,).
        table: of transpositions: nodes by hash of their rows; without entries where they are off.
    """

    nodes: Any
    edges: Any
    cells: Any
    rows: Any
    y: Any
    actions: Any
    boxes: Any
    walks: Any
    path: Any
    trail: Any
    used: Any
    span: Any
    table: Any


class Rule(NamedTuple):
    """Settings of a search, as numba takes them; see `MCTS` for their meaning.

    Attributes:
        kind: `UCT`, `PUCT` or `HOO`.
        width: K, most edges of a node.
        depth: D, most edges of a walk.
        discount: of a whole edge.
        choices: (K, na) actions of every node; none where controls are continuous.
        low, high: of actions (na,).
        reference: the action that is tried first at each depth (D, na).
    """

    kind: int
    width: int
    depth: int
    discount: float
    exploration: float
    power: float
    root: float
    logarithmic: bool
    first_play: float
    siblings: bool
    optimism: float
    virtual_loss: float
    widening: float
    widening_power: float
    local: float
    local_width: float
    prior_width: float
    stochastic: bool
    outcomes: float
    outcomes_power: float
    cell_depth: int
    cell_bonus: float
    cell_decay: float
    choices: Any
    low: Any
    high: Any
    reference: Any


native: Any = compiled()


@native
def _normalised(tree, rule, value, low, high):  # type: ignore[no-untyped-def]
    return (value - low) / (high - low) if high > low else 0.5


@native
def _quality(tree, rule, edge):  # type: ignore[no-untyped-def]
    """The return that an edge is judged by, with at least one."""
    e = tree.edges[edge]
    mean = e.sum / e.count
    return mean + rule.optimism * (e.best - mean) if rule.optimism > 0.0 else mean


@native
def _closed(tree, rule, edge):  # type: ignore[no-untyped-def]
    """Whether there is nothing to learn: a walk is about to find out where the edge leads, or predictions end there."""
    e = tree.edges[edge]
    if rule.stochastic:
        return False
    return e.inflight > 0 if e.child < 0 else tree.nodes[e.child].ended == BROKEN


@native
def _bonus(rule, top, n):  # type: ignore[no-untyped-def]
    """The bonus of what was tried `n` times; `top` is that part of it which only the node's visits decide."""
    return top / (np.sqrt(n) if rule.root == 0.5 else n**rule.root)


@native
def _top(rule, visits):  # type: ignore[no-untyped-def]
    if rule.logarithmic:
        return rule.exploration * np.sqrt(np.log(max(visits, 1.0)))
    return rule.exploration * (np.sqrt(np.sqrt(visits)) if rule.power == 0.25 else visits**rule.power)


@native
def new_edge(tree, rule, node):  # type: ignore[no-untyped-def]
    """Appends an edge to a node; its action is to be set."""
    at = tree.nodes[node]
    edge = node * rule.width + at.width
    at.width += 1
    e = tree.edges[edge]
    e.count = 0
    e.inflight = 0
    e.sum = 0.0
    e.best = -np.inf
    e.prior = 1.0
    e.child = NONE
    e.draws = 0
    e.cell = NONE
    return edge


@native
def set_prior(tree, rule, edge, depth):  # type: ignore[no-untyped-def]
    """A normal density about the reference, in half ranges, or the same for all."""
    if rule.prior_width <= 0.0:
        return
    square = 0.0
    d = min(depth, rule.depth - 1)
    for i in range(rule.low.size):
        half = 0.5 * (rule.high[i] - rule.low[i])
        away = (tree.actions[edge, i] - rule.reference[d, i]) / (rule.prior_width * half)
        square += away * away
    tree.edges[edge].prior = np.exp(-0.5 * square) + 1e-6


@native
def open_node(tree, rule, node, depth):  # type: ignore[no-untyped-def]
    """Gives a new node the edges that it has from the beginning: one for each choice; or its first cell."""
    count = len(rule.choices)
    for k in range(count):
        edge = new_edge(tree, rule, node)
        for i in range(rule.low.size):
            tree.actions[edge, i] = rule.choices[k, i]
        set_prior(tree, rule, edge, depth)
    if count > 0 and rule.kind == PUCT:
        whole = 0.0
        for k in range(count):
            whole += tree.edges[node * rule.width + k].prior
        for k in range(count):
            tree.edges[node * rule.width + k].prior /= whole
    if rule.kind == HOO:
        cell = _new_cell(tree, node, NONE, 0)
        for i in range(rule.low.size):
            tree.boxes[cell, 0, i] = rule.low[i]
            tree.boxes[cell, 1, i] = rule.high[i]


@native
def _new_cell(tree, node, parent, depth):  # type: ignore[no-untyped-def]
    cell = tree.used[1]
    tree.used[1] += 1
    c = tree.cells[cell]
    c.parent = parent
    c.before = tree.nodes[node].cells
    c.kids = NONE
    c.edge = NONE
    c.count = 0
    c.inflight = 0
    c.sum = 0.0
    c.bound = np.inf
    c.depth = depth
    tree.nodes[node].cells = cell
    return cell


@native
def choose(tree, rule, node, depth, rng):  # type: ignore[no-untyped-def]
    """The edge to try at `node`, which lies `depth` edges below the root; it may be new."""
    if rule.kind == HOO:
        return _optimistic(tree, rule, node, depth, rng)
    at = tree.nodes[node]
    visits = float(max(at.visits + at.inflight, 1))
    first = node * rule.width
    if len(rule.choices) == 0 and at.width < rule.width:
        room = np.ceil(rule.widening * visits**rule.widening_power)
        if at.width < max(room, 1.0):
            return _proposed(tree, rule, node, depth, rng)
    low, high = tree.span[0], tree.span[1]
    if rule.siblings:
        low, high = np.inf, -np.inf
        for edge in range(first, first + at.width):
            if tree.edges[edge].count > 0:
                q = _quality(tree, rule, edge)
                low, high = min(low, q), max(high, q)
    top = np.sqrt(visits) * rule.exploration if rule.kind == PUCT else _top(rule, visits)
    whole = 1.0
    if rule.kind == PUCT and len(rule.choices) == 0:
        whole = 0.0
        for edge in range(first, first + at.width):
            whole += tree.edges[edge].prior
    base = _normalised(tree, rule, at.total / at.visits, low, high) if at.visits > 0 else 0.5
    base = min(max(base, 0.0), 1.0)
    found, greatest = NONE, -np.inf
    untried, weight = NONE, -1.0
    for edge in range(first, first + at.width):
        e = tree.edges[edge]
        n = e.count + e.inflight
        if _closed(tree, rule, edge):
            continue
        if n == 0 and rule.first_play == np.inf:
            if e.prior > weight:
                untried, weight = edge, e.prior
            continue
        if e.count > 0:
            q = _normalised(tree, rule, _quality(tree, rule, edge), low, high)
            if e.inflight > 0:
                q *= (e.count + (1.0 - rule.virtual_loss) * e.inflight) / n
        elif n > 0:
            q = (1.0 - rule.virtual_loss) * base
        else:
            q = base + rule.first_play
        if rule.kind == PUCT:
            q += top * e.prior / whole / (1.0 + n)
        else:
            q += _bonus(rule, top, float(max(n, 1)))
        if q > greatest:
            found, greatest = edge, q
    if untried >= 0:
        return untried
    if found < 0:  # all are closed
        if len(rule.choices) == 0 and at.width < rule.width:
            return _proposed(tree, rule, node, depth, rng)
        found = first
        for edge in range(first + 1, first + at.width):
            if (
                tree.edges[edge].count + tree.edges[edge].inflight
                < tree.edges[found].count + tree.edges[found].inflight
            ):
                found = edge
    return found


@native
def _proposed(tree, rule, node, depth, rng):  # type: ignore[no-untyped-def]
    """A new edge: first the reference; then near the best one so far, or anywhere."""
    at = tree.nodes[node]
    best, greatest = NONE, -np.inf
    if at.width > 0 and rng.random() < rule.local:
        for other in range(node * rule.width, node * rule.width + at.width):
            if tree.edges[other].count > 0:
                q = _quality(tree, rule, other)
                if q > greatest:
                    best, greatest = other, q
    edge = new_edge(tree, rule, node)
    d = min(depth, rule.depth - 1)
    scale = rule.local_width * 4.0 ** (-rng.random()) if best >= 0 else 0.0  # bold and careful ones
    for i in range(rule.low.size):
        if at.width == 1:
            value = rule.reference[d, i]
        elif best >= 0:
            half = 0.5 * (rule.high[i] - rule.low[i])
            value = tree.actions[best, i] + scale * half * rng.standard_normal()
        else:
            value = rule.low[i] + (rule.high[i] - rule.low[i]) * rng.random()
        tree.actions[edge, i] = min(max(value, rule.low[i]), rule.high[i])
    set_prior(tree, rule, edge, depth)
    return edge


@native
def _optimistic(tree, rule, node, depth, rng):  # type: ignore[no-untyped-def]
    """The edge at the centre of the most optimistic cell, which is cut if that may be."""
    at, cells = tree.nodes[node], tree.cells
    top = _top(rule, float(max(at.visits + at.inflight, 1)))
    cell = at.cells
    while cell >= 0:  # from the newest to the oldest: kids before their parents
        c = cells[cell]
        n = c.count + c.inflight
        c.bound = np.inf
        if n > 0:
            q = 0.5 * (1.0 - rule.virtual_loss)
            if c.count > 0:
                q = _normalised(tree, rule, c.sum / c.count, tree.span[0], tree.span[1])
                q *= (c.count + (1.0 - rule.virtual_loss) * c.inflight) / n
            c.bound = q + _bonus(rule, top, float(n)) + rule.cell_bonus * rule.cell_decay**c.depth
            if c.kids >= 0:
                most = max(cells[c.kids].bound, cells[c.kids + 1].bound, cells[c.kids + 2].bound)
                c.bound = min(c.bound, most)
            elif _closed(tree, rule, c.edge):
                c.bound = -np.inf
        first, cell = cell, c.before
    cell = first
    while cells[cell].kids >= 0:
        kids = cells[cell].kids
        cell = kids + 1  # the middle one, where they are equal
        for other in (kids, kids + 2):
            if cells[other].bound > cells[cell].bound:
                cell = other
    edge = cells[cell].edge
    if edge < 0:
        edge = new_edge(tree, rule, node)
        for i in range(rule.low.size):
            tree.actions[edge, i] = 0.5 * (tree.boxes[cell, 0, i] + tree.boxes[cell, 1, i])
        tree.edges[edge].cell = cell
        cells[cell].edge = edge
    if cells[cell].depth < rule.cell_depth and at.width + _pending(tree, node) + 2 <= rule.width:
        _cut(tree, rule, node, cell)
    return edge


@native
def _pending(tree, node):  # type: ignore[no-untyped-def]
    """Number of a node's cells that will need an edge yet."""
    found, cell = 0, tree.nodes[node].cells
    while cell >= 0:
        if tree.cells[cell].kids < 0 and tree.cells[cell].edge < 0:
            found += 1
        cell = tree.cells[cell].before
    return found


@native
def _cut(tree, rule, node, cell):  # type: ignore[no-untyped-def]
    """Cuts a cell in three; the middle third takes over its edge."""
    deep = tree.cells[cell].depth
    kids = tree.used[1]
    side = deep % rule.low.size
    for third in range(3):
        kid = _new_cell(tree, node, cell, deep + 1)
        for i in range(rule.low.size):
            low, high = tree.boxes[cell, 0, i], tree.boxes[cell, 1, i]
            length = (high - low) / 3.0
            tree.boxes[kid, 0, i] = low + third * length if i == side else low
            tree.boxes[kid, 1, i] = high - (2 - third) * length if i == side else high
    parent, middle = tree.cells[cell], tree.cells[kids + 1]
    parent.kids = kids
    middle.edge = parent.edge
    middle.count = parent.count
    middle.inflight = parent.inflight
    middle.sum = parent.sum
    tree.edges[parent.edge].cell = kids + 1
