"""The picture in rerun: shapes, moving bodies, planned paths, plots, log.

    /world/bodies/BODY/GEOM          shapes; each body's pose over time
    /world/bodies/BODY/sites/SITE    the same
    /world/tendons/TENDON
    /world/plan/candidates           tried paths, coloured by cost: yellow is cheap
    /world/plan/tree                 of a tree search: branches explored, coloured by value: yellow is good
    /world/plan/prediction           the plan's own path; of an ensemble, the members' mean and some of theirs
    /world/plan/spread               of an ensemble: an ellipsoid of one standard deviation at points along the mean
    /world/past                      a plan whose horizon is over, and beside it the path that was executed
    /world/trail                     where the robot has been
    /plots/reward, cost, controls, planning, misses, readings
    /plots/next, horizon, spread     what plans foretold against what happened, see `foresight`
    /log                             events

All times are the plant's, on the time line `sim_time`.
"""

import colorsys
from typing import Any

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from scipy.spatial.transform import Rotation

from .geometry import WORLD
from .messages import Event, Explored, Lines, Mesh, Message, Opening, Past, Shape, Shapes, Steps, Trail

TIMELINE = "sim_time"
ROWS = 64
"""Steps gathered for a file: each column of a chunk costs some hundred bytes, however few its rows."""

_VIRIDIS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float)
_PREDICTION = (255, 70, 70)
_SPREAD = (255, 170, 60)
_FORETOLD = (190, 90, 130)
_EXECUTED = (90, 220, 160)
_TRAIL = (255, 255, 255)
_BOUND = (128, 128, 128)
_BACKGROUND = (44, 52, 64)
_LEGEND = 6  # most lines of a plot with a legend
_MEMBERS = 8  # most members whose paths are drawn; means and spreads are of all
_ELLIPSOIDS = 6  # most along a path
_TITLES = {
    "misses": "deadline misses",
    "planning": "planning time [ms]",
    "next/place": "error, next plan [m]",
    "next/readings": "readings [%]",
    "next/band": "in 90 % band [%]",
    "horizon/place": "error, horizon [m]",
    "horizon/readings": "readings [%]",
    "horizon/band": "in 90 % band [%]",
    "spread": "spread [m]",
}
_FORESIGHT = (
    ("next/place", "next/readings", "next/band"),
    ("horizon/place", "horizon/readings", "horizon/band", "spread"),
)


class Picture:
    """Logs messages to `stream`.

    Args:
        stream: of rerun; stays open.
        live: whether somebody watches now: steps are logged at once, and shown as they come. Otherwise they are
            gathered, for a small file, and played from the beginning when it is opened.
    """

    def __init__(self, stream: rr.RecordingStream, live: bool) -> None:
        self._stream = stream
        self._live = live
        self._waiting: list[Steps] = []

    def show(self, message: Message) -> None:
        """Draws `message`."""
        match message:
            case Steps():
                self._waiting.append(message)
                if self._live or sum(len(steps.time) for steps in self._waiting) >= ROWS:
                    self.flush()
            case Shapes():
                self._show_shapes(message)
            case Lines():
                self._show_lines(message)
            case Past():
                self._show_past(message)
            case Explored():
                colours = _by_cost(-message.values)
                self._log_at(message.time, f"{WORLD}/plan/tree", _strips(message.branches, colours, 1.0))
            case Trail():
                self._log_at(message.time, f"{WORLD}/trail", _strips(message.points[None], [_TRAIL], 2.0))
            case Event():
                self._log_at(message.time, "log", rr.TextLog(message.text, level=message.level))
            case Opening():
                self._open(message)

    def flush(self) -> None:
        """Logs the steps gathered."""
        waiting, self._waiting = self._waiting, []
        for body in dict.fromkeys(path for steps in waiting for path in steps.bodies):
            of = [(s, s.bodies.index(body)) for s in waiting if s.positions is not None and body in s.bodies]
            positions = [s.positions[:, i] for s, i in of if s.positions is not None]
            quaternions = [s.quaternions[:, i] for s, i in of if s.quaternions is not None]
            self._columns(
                body,
                [s.time for s, _ in of],
                rr.Transform3D.columns(translation=np.concatenate(positions), quaternion=np.concatenate(quaternions)),
            )
        for plot in dict.fromkeys(name for steps in waiting for name in steps.curves):
            of_plot = [s for s in waiting if plot in s.curves]
            values = np.concatenate([s.curves[plot] for s in of_plot])
            columns = rr.Scalars.columns(scalars=values.ravel()).partition([values.shape[1]] * len(values))
            self._columns(f"plots/{plot}", [s.time for s in of_plot], columns)
        for tendon in dict.fromkeys(path for steps in waiting for path in steps.tendons):
            of_tendon = [s for s in waiting if tendon in s.tendons]
            strips = [points for s in of_tendon for points in s.tendons[tendon]]
            self._columns(tendon, [s.time for s in of_tendon], rr.LineStrips3D.columns(strips=strips))

    def _columns(self, path: str, times: list[np.ndarray], columns: Any) -> None:
        index = rr.TimeColumn(TIMELINE, duration=np.concatenate(times))
        self._stream.send_columns(path, indexes=[index], columns=columns)

    def _log_at(self, time: float, path: str, *what: Any) -> None:
        self._stream.set_time(TIMELINE, duration=time)
        self._stream.log(path, *what)

    def _show_shapes(self, message: Shapes) -> None:
        for path, (position, quaternion) in message.fixed.items():
            self._stream.log(path, _pose(position, quaternion), static=True)
        for shape in message.shapes:
            self._stream.log(shape.path, _archetype(shape), _pose(shape.position, shape.quaternion), static=True)

    def _show_lines(self, message: Lines) -> None:
        if len(message.candidates):
            colours = _by_cost(message.costs)
            self._log_at(message.time, f"{WORLD}/plan/candidates", _strips(message.candidates, colours, 1.0))
        members, mean = _fan(message.prediction)
        if len(mean):
            fan = _strips([*members, *mean], [_PREDICTION], [1.0] * len(members) + [3.0])
            self._log_at(message.time, f"{WORLD}/plan/prediction", fan)
        if len(message.prediction) > 1:
            self._log_at(message.time, f"{WORLD}/plan/spread", _ellipsoids(message.prediction))

    def _show_past(self, message: Past) -> None:
        members, mean = _fan(message.prediction)
        colours = [_FORETOLD] * (len(members) + len(mean)) + [_EXECUTED]
        widths = [1.0] * len(members) + [2.5] * len(mean) + [4.0]
        self._log_at(message.time, f"{WORLD}/past", _strips([*members, *mean, message.executed], colours, widths))

    def _open(self, message: Opening) -> None:
        self._stream.log(WORLD, rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for plot, names in message.curves.items():
            bounds = message.bounds.get(plot, 0)
            own = len(names) - bounds
            style = rr.SeriesLines(
                names=list(names), widths=[1.5] * own + [1.0] * bounds, colors=[*_palette(own), *[_BOUND] * bounds]
            )
            self._stream.log(f"plots/{plot}", style, static=True)
        self._stream.send_blueprint(blueprint(message, self._live))


def blueprint(opening: Opening, live: bool) -> rrb.Blueprint:
    """The scene on the left, plots and log on the right; follows a `live` run, or plays it from the beginning."""

    def plot(name: str) -> rrb.TimeSeriesView:
        # A single line has the plot's name, and many names would cover the lines: pointing at a line tells its name.
        legend = rrb.PlotLegend(rrb.Corner2D.LeftTop, visible=1 < len(opening.curves.get(name, ())) <= _LEGEND)
        return rrb.TimeSeriesView(
            origin=f"/plots/{name}",
            name=_TITLES.get(name, name),
            plot_legend=legend,
            axis_x=rrb.TimeAxis(link="LinkToGlobal"),
        )

    log = rrb.TextLogView(
        origin="/log",
        name="events",
        columns=rrb.TextLogColumns(timeline_columns=[TIMELINE], text_log_columns=["LogLevel", "Body"]),
        rows=rrb.TextLogRows(filter_by_log_level=["INFO", "WARN", "ERROR"]),  # replans, DEBUG, can be switched on
    )
    curves = [plot("controls"), plot("readings")]
    planning = [plot("planning"), plot("misses")]
    looks = [[plot(name) for name in names if name in opening.curves] for names in _FORESIGHT]
    # How well an ensemble foresees is in full view; other models' errors are behind tabs.
    rows = [curves + planning, *looks] if "next/band" in opening.curves else [curves, sum(looks, planning)]
    side: Any = rrb.Vertical(plot("reward"), plot("cost"), *(rrb.Tabs(*row) for row in rows), log)
    if opening.eye is not None:
        eye = rrb.EyeControls3D(
            kind=rrb.Eye3DKind.Orbital,
            position=opening.eye.position,
            look_target=opening.eye.target,
            eye_up=(0.0, 0.0, 1.0),
            tracking_entity=opening.eye.follow,
        )
        scene = rrb.Spatial3DView(
            origin=f"/{WORLD}",
            name=opening.task,
            eye_controls=eye,
            background=_BACKGROUND,
            line_grid=rrb.LineGrid3D(visible=False),
        )
        side = rrb.Horizontal(scene, side, column_shares=[2, 1])
    return rrb.Blueprint(
        side,
        rrb.TimePanel(timeline=TIMELINE, state="collapsed", play_state="following" if live else "playing"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        auto_views=False,
        auto_layout=False,
    )


def _pose(position: np.ndarray, quaternion: np.ndarray) -> rr.Transform3D:
    return rr.Transform3D(translation=position, quaternion=rr.Quaternion(xyzw=quaternion))


def _strips(paths: Any, colours: Any, widths: Any) -> rr.LineStrips3D:
    return rr.LineStrips3D(paths, colors=colours, radii=rr.Radius.ui_points(widths))


def _fan(prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some members' paths (n, P, 3), and their mean (1, P, 3) over all (E, P, 3); one alone is the mean."""
    sound = prediction[np.isfinite(prediction).all(axis=(1, 2))]
    if not len(sound):
        return sound, sound
    shown = np.unique(np.linspace(0, len(sound) - 1, _MEMBERS).round().astype(int))
    return sound[shown if len(sound) > 1 else []], sound.mean(axis=0, keepdims=True)


def _ellipsoids(prediction: np.ndarray) -> rr.Ellipsoids3D:
    """One standard deviation of the members' places (E, P, 3), at points along their mean."""
    sound = prediction[np.isfinite(prediction).all(axis=(1, 2))].astype(float)
    if len(sound) < 2:
        return rr.Ellipsoids3D(half_sizes=[])
    at = np.linspace(0, sound.shape[1] - 1, _ELLIPSOIDS + 1).round().astype(int)[1:]
    centres = sound[:, at].mean(axis=0)
    away = sound[:, at] - centres
    variances, axes = np.linalg.eigh(np.einsum("epi,epj->pij", away, away) / (len(sound) - 1))
    axes[np.linalg.det(axes) < 0.0, :, 0] *= -1.0  # a rotation, not a reflection
    return rr.Ellipsoids3D(
        centers=centres,
        half_sizes=np.sqrt(variances.clip(0.0)),
        quaternions=Rotation.from_matrix(axes).as_quat(),
        colors=[_SPREAD],
        fill_mode="majorwireframe",
        line_radii=rr.Radius.ui_points(1.0),
    )


def _by_cost(costs: np.ndarray) -> np.ndarray:
    """Colours (n, 3), from yellow for the lowest cost to violet; by rank, so that one bad candidate hides none."""
    rank = np.empty(len(costs))
    rank[np.argsort(costs, kind="stable")] = np.linspace(1.0, 0.0, len(costs))
    at = rank * (len(_VIRIDIS) - 1)
    low = np.minimum(at.astype(int), len(_VIRIDIS) - 2)
    share = (at - low)[:, None]
    return ((1.0 - share) * _VIRIDIS[low] + share * _VIRIDIS[low + 1]).astype(np.uint8)


def _palette(count: int) -> list[tuple[int, int, int]]:
    """Distinct colours, evenly round the colour circle."""
    turns = (0.58 + np.arange(count) * 0.61803) % 1.0
    return [
        (int(255 * r), int(255 * g), int(255 * b)) for r, g, b in (colorsys.hsv_to_rgb(h, 0.6, 0.95) for h in turns)
    ]


def _archetype(shape: Shape) -> Any:
    """`shape` for rerun, in its own frame."""
    size = shape.size
    look: dict[str, Any] = {"colors": [shape.colour], "fill_mode": "solid"}
    if shape.kind == "box":
        return rr.Boxes3D(half_sizes=[size], **look)
    if shape.kind == "ellipsoid":
        return rr.Ellipsoids3D(half_sizes=[size], **look)
    if shape.kind == "cylinder":
        return rr.Cylinders3D(radii=[size[0]], lengths=[2.0 * size[1]], **look)
    if shape.kind == "capsule":
        # rerun's capsule begins at its frame's origin; ours is centred there.
        return rr.Capsules3D(radii=[size[0]], lengths=[2.0 * size[1]], translations=[[0.0, 0.0, -size[1]]], **look)
    assert shape.mesh is not None
    return _triangles(shape.mesh, shape.colour)


def _triangles(mesh: Mesh, colour: np.ndarray) -> rr.Mesh3D:
    # Rerun indexes vertices, normals and texture coordinates together: one vertex per combination that occurs.
    corners = [mesh.faces.ravel(), mesh.normal_faces.ravel()]
    if mesh.texcoord_faces is not None:
        corners.append(mesh.texcoord_faces.ravel())
    distinct, index = np.unique(np.stack(corners, axis=1), axis=0, return_inverse=True)
    texture: dict[str, Any] = {}
    if mesh.texcoords is not None and mesh.texture is not None:
        texture = {"albedo_texture": mesh.texture, "vertex_texcoords": mesh.texcoords[distinct[:, 2]]}
    return rr.Mesh3D(
        vertex_positions=mesh.vertices[distinct[:, 0]],
        vertex_normals=mesh.normals[distinct[:, 1]],
        triangle_indices=index.reshape(-1, 3).astype(np.uint32),
        albedo_factor=colour,
        **texture,
    )
