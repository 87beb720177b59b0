"""A run as a rerun recording (.rrd): the scene with its moving bodies, readings, controls, reward, on `sim_time`.

It is written after the run, from the recorded states, to a file and to nothing else: no viewer, no port, nothing that
could block. Open it with `rerun F.rrd`.

    /world/bodies/BODY/GEOM          shapes, static; each body's pose over time
    /world/bodies/BODY/sites/SITE    the same
    /world/trace                     the path of the place that the task traces
    /readings/NAME, /controls/NAME, /reward, /cost
"""

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from ..controllers.episode import Episode
from ..controllers.files import replacing
from ..robots.task import Task
from ..sim.interface import Scene
from .outputs import OutputError

TIMELINE = "sim_time"
FLUSH = 60.0
"""Longest wait for the file to be written [s]."""

_GROUPS = (0, 1, 2)  # what MuJoCo's own viewer shows by default
_UNSET = (0.5, 0.5, 0.5, 1.0)  # a geom's colour where its material gives one
_FLOOR = 10.0  # half side, in extents of the model, of a plane without limits
_VIEW = (1.0, -3.0, 1.0)  # from where the robot is looked at, in its radii; its plane of motion is often y = 0
_TEXTURE = 512  # most texels a side


def write(path: Path, episode: Episode, scene: Scene | None, task: Task) -> None:
    """Writes `episode` to `path`, whole or not at all.

    Args:
        path: of the .rrd file.
        episode: with full states, where the scene is to move.
        scene: what is drawn; None: only curves.
        task: names readings and controls.

    Raises:
        OutputError: it could not be written.
    """
    try:
        with replacing(path) as temporary:
            stream = rr.RecordingStream("trimtab", recording_id=f"{episode.task}-{episode.seed}")
            stream.save(temporary)
            eye = _log_scene(stream, episode, scene) if scene is not None and episode.x is not None else None
            _log_curves(stream, episode, task)
            stream.send_blueprint(_blueprint(eye, task))
            stream.flush(timeout_sec=FLUSH)
            stream.disconnect()
            _check(temporary)
    except (OSError, RuntimeError) as error:  # rerun raises the latter where its writer gave up
        told = f"{error}; is the disk full?" if isinstance(error, RuntimeError) else error.strerror or error
        raise OutputError(f"can not write {str(path)!r}: {told}") from error


def _check(path: Path) -> None:
    """Reads the file back: rerun itself says nothing when a disk is full."""
    try:
        chunks = sum(1 for _ in rr.chunk.RrdReader(path).stream())
    except Exception as error:
        raise OSError(f"what was written can not be read back ({error}); is the disk full?") from error
    if not chunks:
        raise OSError("nothing was written; is the disk full?")


def _log_curves(stream: rr.RecordingStream, episode: Episode, task: Task) -> None:
    def curves(root: str, labels: tuple[str, ...], times: np.ndarray, values: np.ndarray) -> None:
        for label, column in zip(labels, values.T, strict=True):
            path = f"{root}/{rr.escape_entity_path_part(label)}" if label else root
            stream.send_columns(path, indexes=[_times(times)], columns=rr.Scalars.columns(scalars=column))

    curves("readings", task.robot.layout.labels, episode.time, episode.y)
    curves("controls", task.robot.actuators, episode.time[:-1], episode.u)
    curves("reward", ("",), episode.time[1:], episode.reward[:, None])
    curves("cost", ("",), episode.time[1:], episode.cost[:, None])
    if task.trace is not None and len(episode) > 0:
        path = task.trace(task.robot.layout(episode.y))
        stream.log("world/trace", rr.LineStrips3D([path], colors=[[255, 180, 60]], radii=[-1.0]), static=True)


def _log_scene(stream: rr.RecordingStream, episode: Episode, scene: Scene) -> rrb.EyeControls3D:
    """Logs shapes and moving bodies; where to look at them from."""
    assert episode.x is not None
    model, data = scene.model, scene.data
    names = [_name(model.body(b).name, "body", b) for b in range(model.nbody)]
    moving = [b for b in range(model.nbody) if model.body_weldid[b] != 0 or model.body_mocapid[b] >= 0]
    # Restoring the first state also writes what the episode drew into the model: targets' places and sizes.
    scene.restore(episode.x[0])
    stream.log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    for b in set(range(model.nbody)) - set(moving):
        pose = rr.Transform3D(translation=data.xpos[b], quaternion=rr.Quaternion(xyzw=_xyzw(data.xquat[b])))
        stream.log(f"world/bodies/{names[b]}", pose, static=True)
    for kind in ("geom", "site"):
        _log_shapes(stream, model, kind, names)
    positions = np.empty((len(episode.x), len(moving), 3), np.float32)
    rotations = np.empty((len(episode.x), len(moving), 4), np.float32)
    for k, x in enumerate(episode.x):
        scene.restore(x)
        positions[k], rotations[k] = data.xpos[moving], _xyzw(data.xquat[moving])
    for i, b in enumerate(moving):
        stream.send_columns(
            f"world/bodies/{names[b]}",
            indexes=[_times(episode.time)],
            columns=rr.Transform3D.columns(
                translation=np.ascontiguousarray(positions[:, i]), quaternion=np.ascontiguousarray(rotations[:, i])
            ),
        )
    if not moving:
        return rrb.EyeControls3D()
    # The floor is large and the robot small: left alone, the viewer shows the floor.
    centre = positions[0].mean(0)
    radius = max(np.linalg.norm(positions[0] - centre, axis=-1).max() + _size(model, moving), 0.1)
    travel = np.linalg.norm(positions[:, 0] - positions[0, 0], axis=-1).max()
    return rrb.EyeControls3D(
        kind=rrb.Eye3DKind.Orbital,
        position=centre + radius * np.array(_VIEW),
        look_target=centre,
        eye_up=(0.0, 0.0, 1.0),
        tracking_entity=f"world/bodies/{names[moving[0]]}" if travel > radius else None,
    )


def _size(model: Any, bodies: list[int]) -> float:
    """Half the size of the largest shape on `bodies` [m]."""
    return float(max((model.geom_rbound[i] for i in range(model.ngeom) if model.geom_bodyid[i] in bodies), default=0.0))


def _log_shapes(stream: rr.RecordingStream, model: Any, kind: str, bodies: list[str]) -> None:
    """Logs all visible geoms, or sites, below their bodies."""
    count = model.ngeom if kind == "geom" else model.nsite
    of = {name: getattr(model, f"{kind}_{name}") for name in ("group", "rgba", "matid", "bodyid", "pos", "quat")}
    for i in range(count):
        material = int(of["matid"][i])
        rgba = of["rgba"][i]
        if material >= 0 and np.allclose(rgba, _UNSET):
            rgba = model.mat_rgba[material]
        if of["group"][i] not in _GROUPS or rgba[3] == 0.0:
            continue
        shape = _shape(model, kind, i, np.round(255.0 * rgba).astype(np.uint8))
        if shape is None:
            continue
        label = _name((model.geom if kind == "geom" else model.site)(i).name, kind, i)
        # A site may have a geom's name.
        path = f"world/bodies/{bodies[of['bodyid'][i]]}/{'' if kind == 'geom' else 'sites/'}{label}"
        turn = rr.Quaternion(xyzw=_xyzw(of["quat"][i]))
        stream.log(path, shape, rr.Transform3D(translation=of["pos"][i], quaternion=turn), static=True)


def _shape(model: Any, kind: str, i: int, colour: np.ndarray) -> Any:
    """The geom or site `i` as a rerun archetype in its own frame; None for a kind of shape that is not drawn."""
    shapes = mujoco.mjtGeom
    shape = shapes(int(getattr(model, f"{kind}_type")[i]))
    size = getattr(model, f"{kind}_size")[i]
    look: dict[str, Any] = {"colors": [colour], "fill_mode": "solid"}
    if shape == shapes.mjGEOM_BOX:
        return rr.Boxes3D(half_sizes=[size], **look)
    if shape == shapes.mjGEOM_SPHERE:
        return rr.Ellipsoids3D(half_sizes=[np.full(3, size[0])], **look)
    if shape == shapes.mjGEOM_ELLIPSOID:
        return rr.Ellipsoids3D(half_sizes=[size], **look)
    if shape == shapes.mjGEOM_CYLINDER:
        return rr.Cylinders3D(radii=[size[0]], lengths=[2.0 * size[1]], **look)
    if shape == shapes.mjGEOM_CAPSULE:
        # rerun's capsule begins at its frame's origin; MuJoCo's is centred there.
        return rr.Capsules3D(radii=[size[0]], lengths=[2.0 * size[1]], translations=[[0.0, 0.0, -size[1]]], **look)
    if shape == shapes.mjGEOM_PLANE:
        return _plane(model, i, size, colour)
    if shape in (shapes.mjGEOM_MESH, shapes.mjGEOM_SDF):
        return _mesh(model, int(model.geom_dataid[i]), colour)
    if shape == shapes.mjGEOM_HFIELD:
        return _height_field(model, int(model.geom_dataid[i]), colour)
    return None


def _plane(model: Any, i: int, size: np.ndarray, colour: np.ndarray) -> rr.Mesh3D:
    half = np.where(size[:2] > 0.0, size[:2], _FLOOR * model.stat.extent)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    texture: dict[str, Any] = {}
    material = int(model.geom_matid[i])
    image = _texture(model, material)
    if image is not None:
        repeat = model.mat_texrepeat[material]
        # A uniform texture repeats per unit of length, another one per side.
        scale = repeat / 2.0 if model.mat_texuniform[material] else repeat / (2.0 * half)
        texture = {"albedo_texture": image, "vertex_texcoords": corners * scale}
    return rr.Mesh3D(
        vertex_positions=np.pad(corners, ((0, 0), (0, 1))),
        vertex_normals=np.tile([0.0, 0.0, 1.0], (4, 1)),
        triangle_indices=[[0, 1, 2], [0, 2, 3]],
        albedo_factor=colour,
        **texture,
    )


def _texture(model: Any, material: int) -> np.ndarray | None:
    """The flat colour texture (h, w, 3) of `material`, thinned out where it is large; None without one."""
    if material < 0:
        return None
    texture = int(model.mat_texid[material][mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if texture < 0 or model.tex_type[texture] != mujoco.mjtTexture.mjTEXTURE_2D or model.tex_nchannel[texture] != 3:
        return None
    height, width, at = (int(a[texture]) for a in (model.tex_height, model.tex_width, model.tex_adr))
    image = model.tex_data[at : at + 3 * height * width].reshape(height, width, 3)
    stride = -(-max(height, width) // _TEXTURE)
    return np.ascontiguousarray(image[::stride, ::stride])


def _mesh(model: Any, i: int, colour: np.ndarray) -> rr.Mesh3D:
    vertices = model.mesh_vert[model.mesh_vertadr[i] :][: model.mesh_vertnum[i]]
    normals = model.mesh_normal[model.mesh_normaladr[i] :][: model.mesh_normalnum[i]]
    faces = slice(model.mesh_faceadr[i], model.mesh_faceadr[i] + model.mesh_facenum[i])
    # MuJoCo indexes vertices and normals apart, rerun together: one vertex per pair that occurs.
    pairs = np.stack([model.mesh_face[faces].ravel(), model.mesh_facenormal[faces].ravel()], axis=1)
    distinct, index = np.unique(pairs, axis=0, return_inverse=True)
    return rr.Mesh3D(
        vertex_positions=vertices[distinct[:, 0]],
        vertex_normals=normals[distinct[:, 1]],
        triangle_indices=index.reshape(-1, 3).astype(np.uint32),
        albedo_factor=colour,
    )


def _height_field(model: Any, i: int, colour: np.ndarray) -> rr.Mesh3D:
    rows, columns, at = (int(a[i]) for a in (model.hfield_nrow, model.hfield_ncol, model.hfield_adr))
    half_x, half_y, top, _ = model.hfield_size[i]
    z = model.hfield_data[at : at + rows * columns].reshape(rows, columns) * top
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    slope_y, slope_x = np.gradient(z, 2.0 * half_y / (rows - 1), 2.0 * half_x / (columns - 1))
    normals = np.stack([-slope_x, -slope_y, np.ones_like(z)], axis=-1).reshape(-1, 3)
    k = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (k[:-1, :-1], k[:-1, 1:], k[1:, 1:], k[1:, :-1]))
    return rr.Mesh3D(
        vertex_positions=np.stack([x, y, z], axis=-1).reshape(-1, 3),
        vertex_normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
        triangle_indices=np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]),
        albedo_factor=colour,
    )


def _blueprint(eye: rrb.EyeControls3D | None, task: Task) -> rrb.Blueprint:
    curves = [rrb.TimeSeriesView(origin=f"/{root}", name=root) for root in ("reward", "cost", "controls", "readings")]
    view: Any = rrb.Vertical(*curves)
    if eye is not None:
        scene = rrb.Spatial3DView(origin="/world", name=task.name, eye_controls=eye)
        view = rrb.Horizontal(scene, view, column_shares=[2, 1])
    return rrb.Blueprint(view, rrb.TimePanel(timeline=TIMELINE), collapse_panels=True)


def _times(seconds: np.ndarray) -> rr.TimeColumn:
    return rr.TimeColumn(TIMELINE, duration=seconds)


def _xyzw(quaternion: np.ndarray) -> np.ndarray:
    """MuJoCo's (..., w x y z) as rerun's (..., x y z w)."""
    return np.roll(quaternion, -1, axis=-1)


def _name(name: str, kind: str, i: int) -> str:
    return str(rr.escape_entity_path_part(name or f"{kind}{i}"))
