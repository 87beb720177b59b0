"""What the run's process tells the one that draws: plain arrays, so that neither needs the other's libraries.

The run's process never imports rerun, whose calls can block for good; the drawing one never needs the task, the plant
or MuJoCo.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles. Corners index vertices, normals and texture coordinates apart, as MuJoCo's do.

    Attributes:
        vertices: (n, 3) [m].
        faces: (m, 3) into vertices.
        normals: (k, 3).
        normal_faces: (m, 3) into normals.
        texcoords: (j, 2), or None.
        texcoord_faces: (m, 3) into texcoords, or None.
        texture: (height, width, 3) uint8, or None.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    normal_faces: np.ndarray
    texcoords: np.ndarray | None = None
    texcoord_faces: np.ndarray | None = None
    texture: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Shape:
    """A geom or a site, in its body's frame.

    Attributes:
        path: of its entity.
        kind: `box`, `ellipsoid`, `cylinder`, `capsule` (both along z) or `mesh`.
        position, quaternion: (3,) [m] and (4,) as (x, y, z, w).
        size: half sizes (3,) [m]; radius and half length of the straight part for the round ones; unused for meshes.
        colour: (4,) uint8.
        mesh: of the kind `mesh`.
    """

    path: str
    kind: str
    position: np.ndarray
    quaternion: np.ndarray
    size: np.ndarray
    colour: np.ndarray
    mesh: Mesh | None = None


@dataclass(frozen=True, eq=False)
class Shapes:
    """Shapes that do not change, and the bodies that do not move; a later message replaces an earlier one by path.

    Attributes:
        fixed: path of a body that never moves: its position (3,) and quaternion (4,) as (x, y, z, w).
    """

    shapes: tuple[Shape, ...]
    fixed: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Eye:
    """From where to look: positions (3,) [m], and the path of the shape to follow, or None."""

    position: np.ndarray
    target: np.ndarray
    follow: str | None = None


@dataclass(frozen=True)
class Opening:
    """The layout of the picture.

    Attributes:
        task: its name.
        curves: names of the lines of each plot.
        bounds: how many of a plot's last lines are limits, drawn thin and grey.
        eye: None: there is no scene, only curves.
    """

    task: str
    curves: Mapping[str, tuple[str, ...]]
    bounds: Mapping[str, int] = field(default_factory=dict)
    eye: Eye | None = None


@dataclass(frozen=True, eq=False)
class Steps:
    """K steps of the run, or what is known at K times, in any order.

    Attributes:
        time: (K,) [s].
        bodies: paths of the B bodies that move.
        positions, quaternions: (K, B, 3) [m] and (K, B, 4) as (x, y, z, w).
        curves: (K, n) by plot, of n lines; a plot may be missing.
        tendons: path of a tendon: its points (n, 3) [m] at each step.
    """

    time: np.ndarray
    bodies: tuple[str, ...] = ()
    positions: np.ndarray | None = None
    quaternions: np.ndarray | None = None
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    tendons: Mapping[str, list[np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Lines:
    """What a planner thinks, from `time` [s] on, as paths of the place that the task traces.

    Attributes:
        candidates: (n, P, 3) [m].
        costs: (n,) of the candidates, all finite.
        prediction: (E, P, 3) [m] under the plan, by member; more than one makes a fan.
    """

    time: float
    candidates: np.ndarray
    costs: np.ndarray
    prediction: np.ndarray


@dataclass(frozen=True, eq=False)
class Past:
    """A plan whose horizon is over at `time` [s], beside what happened.

    Attributes:
        prediction: (E, P, 3) [m], as it was.
        executed: (Q, 3) [m], at the times of the plan's grid.
    """

    time: float
    prediction: np.ndarray
    executed: np.ndarray


@dataclass(frozen=True, eq=False)
class Explored:
    """Where a tree search went, from `time` [s] on.

    Attributes:
        branches: where each edge of the tree begins and ends (n, 2, 3) [m].
        values: their mean returns (n,), the greater the better.
    """

    time: float
    branches: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Trail:
    """The path travelled in the last seconds before `time` [s], (P, 3) [m]."""

    time: float
    points: np.ndarray


@dataclass(frozen=True)
class Event:
    """A line of the log at `time` [s]; `level` is `DEBUG`, `INFO`, `WARN` or `ERROR`."""

    time: float
    level: str
    text: str


Message = Opening | Shapes | Steps | Lines | Past | Explored | Trail | Event
