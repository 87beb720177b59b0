"""A search tree as arrays: walks down it, new nodes, returns carried back up, and keeping the branch that was used.

A simulation is a walk. It goes down from the root by `bandits.choose`, asks for a transition where it leaves the tree
(`ASKING`), and is told it (`attach`); where the transition leads to a node that is known, it goes on. Once it is over,
its return G goes back up,

    G <- reward + discount G,    n <- n + 1,    sum <- sum + G

Several walks may be under way at once; each counts as a visit, and of a bad return as far as `virtual_loss` says, so
that they spread. With one at a time the search is the sequential one.

Where transitions are random, an edge has at most C n^w draws (double progressive widening); further visits follow one
of them, each as often as it was drawn.
"""

import numpy as np

from .bandits import BROKEN, CELL, EDGE, HOO, NODE, NONE, WALK, Tree, choose, native, open_node

GOING, ASKING, DONE = 0, 1, 2
VISITS, VALUE, BEST = 0, 1, 2


def make(nodes: int, width: int, rows: int, ny: int, na: int, walks: int, depth: int, cells: int, table: bool) -> Tree:
    """Room for a tree, see `Tree`; empty.

    Args:
        nodes: M.
        width: K.
        rows: numbers in what dynamics continue from.
        ny: readings.
        na: numbers in an action.
        walks: B.
        depth: D.
        cells: C; 0 where there are none.
        table: whether transpositions are found.
    """
    size = 1 << (2 * nodes).bit_length() if table else 0
    return Tree(
        nodes=np.zeros(nodes, NODE),
        edges=np.zeros(nodes * width, EDGE),
        cells=np.zeros(cells, CELL),
        rows=np.zeros((nodes, rows)),
        y=np.zeros((nodes, ny)),
        actions=np.zeros((nodes * width, na)),
        boxes=np.zeros((cells, 2, na)),
        walks=np.zeros(walks, WALK),
        path=np.zeros((walks, depth), np.int64),
        trail=np.zeros((walks, depth + 1), np.int64),
        used=np.zeros(2, np.int64),
        span=np.array([np.inf, -np.inf]),
        table=np.full(size, NONE, np.int64),
    )


@native
def plant(tree, rule, row, y):  # type: ignore[no-untyped-def]
    """Empties the tree, but for a root."""
    tree.used[0], tree.used[1] = 0, 0
    tree.span[0], tree.span[1] = np.inf, -np.inf
    for slot in range(tree.table.size):
        tree.table[slot] = NONE
    _new_node(tree, rule, row, y, tree.used[0])
    if tree.table.size > 0:
        tree.table[_slot(tree, row)] = 0


@native
def _new_node(tree, rule, row, y, depth):  # type: ignore[no-untyped-def]
    node = tree.used[0]
    tree.used[0] += 1
    at = tree.nodes[node]
    at.parent = NONE
    at.visits = 0
    at.inflight = 0
    at.total = 0.0
    at.leaf = 0.0
    at.tail = 0.0
    at.reward = 0.0
    at.sibling = NONE
    at.drawn = 1
    at.width = 0
    at.cells = NONE
    at.ended = 0
    for i in range(row.size):
        tree.rows[node, i] = row[i]
    for i in range(y.size):
        tree.y[node, i] = y[i]
    open_node(tree, rule, node, depth)
    return node


@native
def begin(tree, rule, walks, rng):  # type: ignore[no-untyped-def]
    """Sends `walks` walks down from the root; how many of them ask."""
    asking = 0
    for b in range(walks):
        tree.walks[b].length = 0
        tree.trail[b, 0] = 0
        asking += _descend(tree, rule, b, rng)
    return asking


@native
def resume(tree, rule, walks, rng):  # type: ignore[no-untyped-def]
    """Lets those walks go on that can; how many of them ask."""
    asking = 0
    for b in range(walks):
        if tree.walks[b].status == GOING:
            asking += _descend(tree, rule, b, rng)
    return asking


@native
def _descend(tree, rule, b, rng):  # type: ignore[no-untyped-def]
    """Walks on until a transition is needed (1) or there is nowhere to go (0)."""
    walk = tree.walks[b]
    node = tree.trail[b, walk.length]
    while True:
        at = tree.nodes[node]
        if at.ended != 0 or walk.length >= rule.depth:
            walk.status = DONE
            walk.value = at.leaf
            return 0
        edge = choose(tree, rule, node, walk.length, rng)
        at.inflight += 1
        tree.edges[edge].inflight += 1
        if rule.kind == HOO:
            cell = tree.edges[edge].cell
            while cell >= 0:
                tree.cells[cell].inflight += 1
                cell = tree.cells[cell].parent
        tree.path[b, walk.length] = edge
        node = _outcome(tree, rule, edge, rng)
        if node < 0:
            walk.status = ASKING
            return 1
        walk.length += 1
        tree.trail[b, walk.length] = node


@native
def _outcome(tree, rule, edge, rng):  # type: ignore[no-untyped-def]
    """The node that an edge leads to this time; none where a transition is to be drawn."""
    e = tree.edges[edge]
    if not rule.stochastic or e.child < 0:
        return e.child
    if e.draws < max(np.ceil(rule.outcomes * float(e.count + e.inflight) ** rule.outcomes_power), 1.0):
        return NONE
    left = rng.random() * e.draws
    node = e.child
    while True:
        left -= tree.nodes[node].drawn
        if left < 0.0 or tree.nodes[node].sibling < 0:
            return node
        node = tree.nodes[node].sibling


@native
def attach(tree, rule, b, row, y):  # type: ignore[no-untyped-def]
    """Ends the waiting of a walk that has been told its transition, and what the state there is worth (`value`).

    Where the transition leads to a node that the edge knows, the walk can go on from it, unless another walk has just
    found the same one in its place.
    """
    walk = tree.walks[b]
    edge = tree.path[b, walk.length]
    e = tree.edges[edge]
    node = NONE
    if not rule.stochastic:
        node = e.child
        walk.status = DONE
    else:
        e.draws += 1
        other = e.child
        while other >= 0:
            if _same(tree.rows[other], row) and tree.nodes[other].reward == walk.reward:
                node = other
                tree.nodes[other].drawn += 1
                walk.status = GOING
                break
            other = tree.nodes[other].sibling
    if node < 0 and tree.table.size > 0:
        slot = _slot(tree, row)
        node = tree.table[slot]
        if node >= 0:
            if tree.nodes[node].reward == walk.reward and not rule.stochastic:
                e.child = node
                walk.status = GOING
            else:
                node = NONE
    if node < 0:
        node = _new_node(tree, rule, row, y, walk.length + 1)
        at = tree.nodes[node]
        at.parent = edge
        at.sibling = e.child
        at.reward = walk.reward
        at.ended = walk.ended
        at.leaf = walk.value
        at.tail = walk.tail
        e.child = node
        walk.status = DONE
        if tree.table.size > 0:
            slot = _slot(tree, row)
            if tree.table[slot] < 0:
                tree.table[slot] = node
    walk.length += 1
    tree.trail[b, walk.length] = node


@native
def _same(one, other):  # type: ignore[no-untyped-def]
    for i in range(one.size):  # noqa: SIM110 - numba compiles loops faster
        if one[i] != other[i]:
            return False
    return True


@native
def _slot(tree, row):  # type: ignore[no-untyped-def]
    """Where in the table the node with this row is, or would be."""
    code = np.uint64(14695981039346656037)
    for i in range(row.size):
        number = np.uint64(hash(row[i]) & 0x7FFFFFFFFFFFFFFF)
        code = (code ^ number) * np.uint64(1099511628211)
        code ^= code >> np.uint64(29)
    mask = np.uint64(tree.table.size - 1)
    slot = code & mask
    while tree.table[np.int64(slot)] >= 0 and not _same(tree.rows[tree.table[np.int64(slot)]], row):
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@native
def finish(tree, rule, walks):  # type: ignore[no-untyped-def]
    """Carries the returns of `walks` walks back up, in their order."""
    for b in range(walks):
        walk = tree.walks[b]
        gain = walk.value
        for k in range(walk.length - 1, -1, -1):
            node, edge = tree.trail[b, k + 1], tree.path[b, k]
            at, e = tree.nodes[node], tree.edges[edge]
            at.visits += 1
            at.total += gain
            gain = at.reward + rule.discount * gain
            e.count += 1
            e.inflight -= 1
            e.sum += gain
            e.best = max(e.best, gain)
            mean = e.sum / e.count
            tree.span[0] = min(tree.span[0], mean)
            tree.span[1] = max(tree.span[1], mean)
            tree.nodes[tree.trail[b, k]].inflight -= 1
            if rule.kind == HOO:
                cell = e.cell
                while cell >= 0:
                    c = tree.cells[cell]
                    c.count += 1
                    c.inflight -= 1
                    c.sum += gain
                    cell = c.parent
        tree.nodes[0].visits += 1
        tree.nodes[0].total += gain


@native
def keep(old, new, rule, root, most, queue, place, discount, horizon, segment, steps):  # type: ignore[no-untyped-def]
    """Copies the branch of `old` below the node `root` to `new`, the nearest `most` nodes first.

    Edges that led to nodes left out keep what is known about them, and lead nowhere until they are tried again. The
    horizon has moved on with the root: all returns are extended by as many steps, as if a leaf's last reward went on.

    Args:
        old: the tree before.
        new: as wide, empty.
        rule: of both.
        root: a node of `old`.
        most: nodes.
        queue: (at least `most`,) room.
        place: (nodes of `old`,), all -1.
        discount: of a control step.
        horizon: [control steps] of the new tree.
        segment: [control steps] of an edge.
        steps: by which the root moves on [control steps].
    """
    new.used[0], new.used[1] = 0, 0
    new.span[0], new.span[1] = np.inf, -np.inf
    queue[0] = root
    place[root] = 0
    count, at = 1, 0
    while at < count:
        source = queue[at]
        for k in range(old.nodes[source].width):
            child = old.edges[source * rule.width + k].child
            while child >= 0:
                if place[child] < 0 and count < most:
                    place[child] = count
                    queue[count] = child
                    count += 1
                child = old.nodes[child].sibling
        at += 1
    new.used[0] = count
    for node in range(count):
        source = queue[node]
        new.nodes[node] = old.nodes[source]
        at_new = new.nodes[node]
        at_new.parent = NONE
        at_new.sibling = NONE
        at_new.cells = NONE
        for i in range(new.rows.shape[1]):
            new.rows[node, i] = old.rows[source, i]
        for i in range(new.y.shape[1]):
            new.y[node, i] = old.y[source, i]
        for k in range(at_new.width):
            edge, before = node * rule.width + k, source * rule.width + k
            new.edges[edge] = old.edges[before]
            new.edges[edge].child = NONE
            new.edges[edge].draws = 0
            for i in range(new.actions.shape[1]):
                new.actions[edge, i] = old.actions[before, i]
    for node in range(count):
        source = queue[node]
        for k in range(new.nodes[node].width):
            edge, child = node * rule.width + k, old.edges[source * rule.width + k].child
            e = new.edges[edge]
            last = NONE
            while child >= 0:
                kept = place[child]
                if kept >= 0:
                    e.draws += old.nodes[child].drawn
                    if last < 0:
                        e.child = kept
                    else:
                        new.nodes[last].sibling = kept
                    last = kept
                    if new.nodes[kept].parent < 0:
                        new.nodes[kept].parent = edge
                child = old.nodes[child].sibling
        if rule.kind == HOO:
            _keep_cells(old, new, rule, source, node)
    new.nodes[0].parent = NONE
    _extend(new, rule, discount, horizon, segment, steps)
    if new.table.size > 0:
        for node in range(count):
            slot = _slot(new, new.rows[node])
            if new.table[slot] < 0:
                new.table[slot] = node


@native
def _extend(tree, rule, discount, horizon, segment, steps):  # type: ignore[no-untyped-def]
    """Adds to every return what the steps by which the horizon moved on are taken to bring."""
    count = tree.used[0]
    depth, more = np.zeros(count, np.int64), np.zeros(count)
    for node in range(1, count):
        depth[node] = depth[tree.nodes[node].parent // rule.width] + 1
    span = float(steps) if discount == 1.0 else (1.0 - discount**steps) / (1.0 - discount)
    for node in range(count - 1, -1, -1):  # kids before their parents
        at = tree.nodes[node]
        leaves = at.visits
        for edge in range(node * rule.width, node * rule.width + at.width):
            e = tree.edges[edge]
            leaves -= e.count
            extra, visits, child = 0.0, 0, e.child
            while child >= 0:
                extra += rule.discount * more[child]
                visits += tree.nodes[child].visits
                child = tree.nodes[child].sibling
            if visits > 0 and e.count > 0:
                extra *= e.count / visits  # of several parents, each has its part
                e.sum += extra
                e.best += extra / e.count
                more[node] += extra
                cell = e.cell
                while rule.kind == HOO and cell >= 0:
                    tree.cells[cell].sum += extra
                    cell = tree.cells[cell].parent
            if e.count > 0:
                mean = e.sum / e.count
                tree.span[0] = min(tree.span[0], mean)
                tree.span[1] = max(tree.span[1], mean)
        extension = discount ** max(horizon - steps - depth[node] * segment, 0) * span * at.tail
        at.leaf += extension
        more[node] += max(leaves, 0) * extension
        at.total += more[node]


@native
def _keep_cells(old, new, rule, source, node):  # type: ignore[no-untyped-def]
    """Copies a node's cells, in the order in which they were made.

    Until all are copied, a copied cell's `inflight`, which is 0 between searches, tells its old one where it is.
    """
    count, cell = 0, old.nodes[source].cells
    while cell >= 0:
        count += 1
        cell = old.cells[cell].before
    begin = new.used[1]
    new.used[1] += count
    at, cell = begin + count - 1, old.nodes[source].cells
    while cell >= 0:
        new.cells[at] = old.cells[cell]
        for i in range(new.boxes.shape[2]):
            new.boxes[at, 0, i] = old.boxes[cell, 0, i]
            new.boxes[at, 1, i] = old.boxes[cell, 1, i]
        old.cells[cell].inflight = at
        cell = old.cells[cell].before
        at -= 1
    for at in range(begin, begin + count):
        c = new.cells[at]
        c.before = at - 1 if at > begin else NONE
        if c.edge >= 0:
            c.edge = node * rule.width + c.edge - source * rule.width
            if c.kids < 0:
                new.edges[c.edge].cell = at
        if c.kids >= 0:
            c.kids = old.cells[c.kids].inflight
        if c.parent >= 0:
            c.parent = old.cells[c.parent].inflight
    cell = old.nodes[source].cells
    while cell >= 0:
        old.cells[cell].inflight = 0
        cell = old.cells[cell].before
    new.nodes[node].cells = begin + count - 1


@native
def deepest(tree, rule):  # type: ignore[no-untyped-def]
    """Edges from the root to the deepest node."""
    depth = np.zeros(tree.used[0], np.int64)
    for node in range(1, tree.used[0]):
        parent = tree.nodes[node].parent
        if parent >= 0:
            depth[node] = depth[parent // rule.width] + 1
    return depth.max()


@native
def principal(tree, rule, by):  # type: ignore[no-untyped-def]
    """Edges of the principal variation: by `VISITS` (of as many, the best mean), by mean `VALUE`, or `BEST` return.

    Of several outcomes it follows the one most visited.
    """
    found = np.empty(rule.depth, np.int64)
    node, length = 0, 0
    while node >= 0 and length < rule.depth:
        best, greatest, second = NONE, -np.inf, -np.inf
        for sound in range(1, -1, -1):  # where predictions break down only if they do everywhere
            for edge in range(node * rule.width, node * rule.width + tree.nodes[node].width):
                e = tree.edges[edge]
                broken = e.child >= 0 and tree.nodes[e.child].ended == BROKEN
                if e.count == 0 or broken == (sound == 1):
                    continue
                mean = e.sum / e.count
                first = float(e.count) if by == VISITS else mean if by == VALUE else e.best
                if first > greatest or (first == greatest and mean > second):
                    best, greatest, second = edge, first, mean
            if best >= 0:
                break
        if best < 0:
            break
        found[length] = best
        length += 1
        child, node, most = tree.edges[best].child, NONE, -1
        while child >= 0:
            if tree.nodes[child].visits > most:
                node, most = child, tree.nodes[child].visits
            child = tree.nodes[child].sibling
    return found[:length]
