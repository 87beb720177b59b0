"""Maze: from cell to cell past walls and holes to the goal, in steps east, north, west or south."""

import functools

import mujoco
import numpy as np

from .arrays import Array, vector
from .finite import Finite
from .layout import Reading, View
from .shaping import column
from .task import Robot, Start, Task, Term

MAP = """
###########
#S..#.....#
#.#...#.#.#
#.#O#.#.O.#
#...#.##..#
#.#...O#.##
#.##O#...G#
###########
"""
"""`#` wall, `.` free, `O` hole, `S` start, `G` goal; cells are 1 m wide, x grows to the right, y upwards."""

MOVES = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Of the controls 0 to 3: east, north, west, south [m]."""

WAY = 3.0
"""Moves to the goal that cost as much as not being there."""


def cells() -> dict[tuple[int, int], str]:
    """What is where, walls aside: (x, y) [m] to the map's letter, in reading order."""
    lines = MAP.strip().splitlines()
    return {
        (x, len(lines) - 1 - row): letter
        for row, line in enumerate(lines)
        for x, letter in enumerate(line)
        if letter != "#"
    }


def ways() -> dict[tuple[int, int], int]:
    """Fewest moves from each cell to the goal, round walls and holes; of holes and cells shut off, as many as cells."""
    places = cells()
    border = [place for place, letter in places.items() if letter == "G"]
    found = dict.fromkeys(border, 0)
    while border:
        x, y = border.pop(0)
        for dx, dy in MOVES:
            place = x + dx, y + dy
            if place in places and places[place] != "O" and place not in found:
                found[place] = found[x, y] + 1
                border.append(place)
    return {place: found.get(place, len(places)) for place in places}


def finite(slip: float) -> Finite:
    """The maze; a move into a wall leads nowhere. Holes and the goal end it. For `slip`, see `holes`."""
    places = cells()
    index = {place: s for s, place in enumerate(places)}
    letters = list(places.values())
    left = ways()
    states = np.array([[*place, letter == "G", letter == "O", left[place]] for place, letter in places.items()], float)
    turns = (0,) if slip == 0.0 else (0, 1, 3)
    shape = (len(places), len(MOVES), len(turns))
    after, probability = np.zeros(shape, int), np.zeros(shape)
    for (x, y), s in index.items():
        for a in range(len(MOVES)):
            for o, turn in enumerate(turns):
                dx, dy = MOVES[(a + turn) % 4]
                after[s, a, o] = index.get((x + dx, y + dy), s)
                probability[s, a, o] = 1.0 - 2.0 * slip if turn == 0 else slip
    reached = np.array([letter == "G" for letter in letters])[after]
    over = np.array([letter in "GO" for letter in letters])[after]
    return Finite(states, after, probability, reached.astype(float), over, _drawing)


def _drawing() -> mujoco.MjSpec:
    places = cells()
    width, height = (max(place[i] for place in places) + 2 for i in (0, 1))
    walls = [(x, y) for x in range(width) for y in range(height) if (x, y) not in places]
    geoms = [f'<geom type="box" size=".5 .5 .3" pos="{x} {y} .3" rgba=".5 .5 .55 1"/>' for x, y in walls]
    for (x, y), letter in places.items():
        colour = {"O": ".05 .05 .05 1", "G": ".2 .8 .3 1"}.get(letter)
        if colour:
            geoms.append(f'<geom type="cylinder" size=".4 .01" pos="{x} {y} .011" rgba="{colour}"/>')
    middle = f"{(width - 1) / 2} {(height - 1) / 2}"
    return mujoco.MjSpec.from_string(f"""
<mujoco model="maze">
  <visual><headlight ambient=".4 .4 .4"/></visual>
  <worldbody>
    <light pos="{middle} 12"/>
    <camera name="fixed" pos="{middle} {1.2 * width}" xyaxes="1 0 0 0 1 0"/>
    <geom name="floor" type="plane" size="{width / 2} {height / 2} .1" pos="{middle} 0" rgba=".8 .8 .75 1"/>
    {"".join(geoms)}
    <body name="walker" pos="0 0 .3">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom type="sphere" size=".3" rgba=".7 .5 .3 1"/>
    </body>
  </worldbody>
</mujoco>
""")


def _robot(slip: float) -> Robot:
    return Robot(
        name="maze",
        build=None,
        readings=(
            Reading("cell", 2),  # x, y [m]
            Reading("goal", 1),  # 1 at the goal
            Reading("hole", 1),  # 1 in a hole
            Reading("way", 1),  # moves to the goal, at least
            Reading("reward", 1),
            Reading("terminated", 1),
        ),
        dt=0.5,
        limits=np.array([[-0.5], [len(MOVES) - 0.5]]),
        finite=functools.partial(finite, slip),
        choices=len(MOVES),
    )


def _reward(y: View, u: Array) -> Array:
    return y.reward


def _missing(y: View, u: Array, t: Array) -> Array:
    return column(1.0 - y.goal)


def _away(y: View, u: Array, t: Array) -> Array:
    return column(y.way / WAY)


def _fallen(y: View, u: Array, t: Array) -> Array:
    return column(y.hole)


def _over(y: View) -> Array:
    return y.terminated > 0.5


def _arrived(y: View) -> Array:
    return y.goal > 0.5


def _place(y: View) -> Array:
    return vector(y.cell[..., 0], y.cell[..., 1], 0.3)


def _start(seed: int) -> Start:
    """At `S`, whatever the seed: a state's number is its position."""
    return Start(np.array([float(list(cells().values()).index("S"))]), np.zeros(0))


def holes(slip: float = 0.0) -> Task:
    """Reach the goal, past holes.

    Args:
        slip: probability of a move to each side of the one wanted, as on ice; at most 0.5.
    """
    return Task(
        name="maze-holes",
        robot=_robot(slip),
        score=_reward,
        terms=(Term("goal", _missing), Term("way", _away), Term("hole", _fallen, weight=5.0)),
        start=_start,
        duration=30.0,
        trace=_place,
        goal=_arrived,
        end=_over,
    )


TASKS = {"holes": holes}
