"""A MuJoCo model's visible geometry as plain shapes."""

import re
from collections.abc import Iterator
from typing import Any

import mujoco
import numpy as np

from .messages import Eye, Mesh, Shape

GROUPS = (0, 1, 2)
"""Of geoms and sites, those that MuJoCo's own viewer shows by default; all meshes of a robot whose skin hides them."""
WORLD = "world"
BODIES = f"{WORLD}/bodies"

_UNSET = (0.5, 0.5, 0.5, 1.0)  # a geom's colour where its material gives one
_FLOOR = 10.0  # half side, in extents of the model, of a plane without limits
_VIEW = np.array([1.1, -3.2, 1.2]) / np.linalg.norm([1.1, -3.2, 1.2])  # its plane of motion is often y = 0
_DISTANCE = 2.6  # from which the robot is looked at, in its radii
_FIELD = 55.0  # height of rerun's field of view [degrees]
_STEEPEST = 0.87  # sine of the greatest angle to look down at; rerun's eye turns about the vertical
_TEXTURE = 512  # most texels a side

_TYPES = mujoco.mjtGeom
_KINDS = {
    _TYPES.mjGEOM_BOX: "box",
    _TYPES.mjGEOM_SPHERE: "ellipsoid",
    _TYPES.mjGEOM_ELLIPSOID: "ellipsoid",
    _TYPES.mjGEOM_CYLINDER: "cylinder",
    _TYPES.mjGEOM_CAPSULE: "capsule",
    _TYPES.mjGEOM_PLANE: "mesh",
    _TYPES.mjGEOM_MESH: "mesh",
    _TYPES.mjGEOM_SDF: "mesh",
    _TYPES.mjGEOM_HFIELD: "mesh",
}


def xyzw(quaternion: np.ndarray) -> np.ndarray:
    """MuJoCo's quaternions (..., w x y z) as (..., x y z w)."""
    return np.roll(quaternion, -1, axis=-1)


def part(name: str) -> str:
    """`name` as one part of an entity's path: what rerun gives a meaning to is escaped."""
    return re.sub(r"([^\w.-])", r"\\\1", name)


def body_path(model: Any, body: int) -> str:
    """Where body `body` is drawn."""
    return f"{BODIES}/{part(model.body(body).name or f'body{body}')}"


def moving(model: Any) -> np.ndarray:
    """Bodies that can move: by joints, or because they are mocap bodies."""
    return np.flatnonzero((model.body_weldid != 0) | (model.body_mocapid >= 0))


def spatial_tendons(model: Any, data: Any) -> dict[str, int]:
    """Tendons that lead through space, by path."""
    return {
        f"{WORLD}/tendons/{part(model.tendon(i).name or f'tendon{i}')}": i
        for i in range(model.ntendon)
        if data.ten_wrapnum[i] > 0
    }


def tendon_points(data: Any, tendon: int) -> np.ndarray:
    """The points (n, 3) [m] that spatial tendon `tendon` leads through."""
    at = int(data.ten_wrapadr[tendon])
    return np.asarray(data.wrap_xpos).reshape(-1, 3)[at : at + int(data.ten_wrapnum[tendon])].astype(np.float32)


def shapes(model: Any) -> Iterator[Shape]:
    """All visible geoms and sites."""
    for kind in ("geom", "site"):
        for i in range(model.ngeom if kind == "geom" else model.nsite):
            shape = _shape(model, kind, i)
            if shape is not None:
                yield shape


def eye(model: Any, data: Any) -> Eye:
    """A view of the robot as `data` has it, not of its floor, which may be large; follows a robot that travels."""
    geoms = np.flatnonzero(np.isin(model.geom_bodyid, moving(model)) & np.isin(model.geom_group, GROUPS))
    if not len(geoms):
        return Eye(model.stat.extent * _DISTANCE * _VIEW, np.zeros(3))
    places, reach = data.geom_xpos[geoms], model.geom_rbound[geoms, None]
    low, high = (places - reach).min(0), (places + reach).max(0)
    centre, radius = (low + high) / 2.0, max(float(np.linalg.norm(high - low)) / 2.0, 0.1)
    follow = _followed(model, geoms)
    fixed = np.flatnonzero((model.cam_bodyid == 0) & (model.cam_mode == mujoco.mjtCamLight.mjCAMLIGHT_FIXED))
    if follow is None and len(fixed):
        return _through(model, data, int(fixed[0]), centre)
    return Eye(centre + radius * _DISTANCE * _VIEW, centre, follow)


def _through(model: Any, data: Any, camera: int, centre: np.ndarray) -> Eye:
    """What the model's camera `camera` shows, whose author knew where targets may be; from above, somewhat aslant."""
    _, up, back = data.cam_xmat[camera].reshape(3, 3).T
    place = data.cam_xpos[camera]
    depth = max((place - centre) @ back, 0.1)
    target = place - depth * back
    zoom = np.tan(np.radians(model.cam_fovy[camera]) / 2.0) / np.tan(np.radians(_FIELD) / 2.0)
    if back[2] > _STEEPEST:
        back = _STEEPEST * back - np.sqrt(1.0 - _STEEPEST**2) * up
    return Eye(target + depth * zoom * back, target)


def _followed(model: Any, geoms: np.ndarray) -> str | None:
    """The path of the largest of `geoms` on the heaviest body that stands on the world, if that travels."""
    roots = [b for b in range(1, model.nbody) if model.body_parentid[b] == 0]
    root = max(roots, key=lambda b: model.body_subtreemass[b])
    if not _travels(model, root):
        return None
    # Rerun follows what has an extent: a body's own entity, which only has a pose, has none.
    bodies = model.geom_bodyid[geoms]
    nearest = np.lexsort((-model.geom_rbound[geoms], bodies != root, model.body_rootid[bodies] != root))
    followed = (_shape(model, "geom", int(i)) for i in geoms[nearest])
    return next((shape.path for shape in followed if shape is not None), None)


def _travels(model: Any, body: int) -> bool:
    """Whether a joint of `body` lets it move away without limits."""
    joints = range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body])
    slide = mujoco.mjtJoint.mjJNT_SLIDE
    return any(
        model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE or (model.jnt_type[j] == slide and not model.jnt_limited[j])
        for j in joints
    )


def _shape(model: Any, kind: str, i: int) -> Shape | None:
    """Geom or site `i`; None for one that is not drawn."""

    def of(name: str) -> Any:
        return getattr(model, f"{kind}_{name}")[i]

    rgba = _colour(model, of("rgba"), int(of("matid")))
    type_ = _TYPES(int(of("type")))
    bone = model.nskin > 0 and type_ == _TYPES.mjGEOM_MESH
    if not (of("group") in GROUPS or bone) or rgba[3] == 0.0 or type_ not in _KINDS:
        return None
    size, mesh = of("size").copy(), None
    if type_ == _TYPES.mjGEOM_SPHERE:
        size[:] = size[0]
    elif type_ == _TYPES.mjGEOM_PLANE:
        mesh = _plane(model, i, size)
    elif type_ == _TYPES.mjGEOM_HFIELD:
        mesh = _height_field(model, int(model.geom_dataid[i]))
    elif _KINDS[type_] == "mesh":
        mesh = _mesh(model, int(model.geom_dataid[i]), int(of("matid")))
    if mesh is not None and mesh.texture is not None:
        rgba = _unlit(model, of("rgba"), int(of("matid")))
    name = (model.geom if kind == "geom" else model.site)(i).name or f"{kind}{i}"
    # A site may have a geom's name.
    path = f"{body_path(model, int(of('bodyid')))}/{'' if kind == 'geom' else 'sites/'}{part(name)}"
    colour = np.round(255.0 * np.clip(rgba, 0.0, 1.0)).astype(np.uint8)
    return Shape(path, _KINDS[type_], of("pos").copy(), xyzw(of("quat")), size, colour, mesh)


def _unlit(model: Any, rgba: np.ndarray, material: int) -> np.ndarray:
    """The colour (4,) that a texture is tinted with."""
    return model.mat_rgba[material] if material >= 0 and np.allclose(rgba, _UNSET) else rgba


def _colour(model: Any, rgba: np.ndarray, material: int) -> np.ndarray:
    """The colour (4,) of a solid shape: where it has a texture, that texture's mean."""
    tint = _unlit(model, rgba, material)
    texture = _texture_id(model, material)
    if texture is None:
        return tint
    return tint * np.append(_texels(model, texture)[..., :3].reshape(-1, 3).mean(0) / 255.0, 1.0)


def _texture_id(model: Any, material: int) -> int | None:
    """The colour texture of `material`, or None."""
    if material < 0:
        return None
    roles = mujoco.mjtTextureRole
    ids = model.mat_texid[material]
    return next((int(ids[r]) for r in (roles.mjTEXROLE_RGB, roles.mjTEXROLE_RGBA) if ids[r] >= 0), None)


def _texels(model: Any, texture: int) -> np.ndarray:
    """The texture (height, width, 3), thinned out where it is large; of a cube, its six sides one below the other."""
    height, width, channels = (int(a[texture]) for a in (model.tex_height, model.tex_width, model.tex_nchannel))
    at = int(model.tex_adr[texture])
    image = model.tex_data[at : at + height * width * channels].reshape(height, width, channels)
    stride = -(-max(height, width) // _TEXTURE)
    image = image[::stride, ::stride]
    return np.ascontiguousarray(np.repeat(image, 3, axis=-1) if channels == 1 else image[..., :3])


def _flat_texture(model: Any, material: int) -> np.ndarray | None:
    """The colour texture of `material` if it is a flat one."""
    texture = _texture_id(model, material)
    if texture is None or model.tex_type[texture] != mujoco.mjtTexture.mjTEXTURE_2D:
        return None
    return _texels(model, texture)


def _plane(model: Any, i: int, size: np.ndarray) -> Mesh:
    half = np.where(size[:2] > 0.0, size[:2], _FLOOR * model.stat.extent)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    material = int(model.geom_matid[i])
    texture, texcoords = _flat_texture(model, material), None
    if texture is not None:
        repeat = model.mat_texrepeat[material]
        # A uniform texture repeats per unit of length, another one per side.
        texcoords = corners * (repeat / 2.0 if model.mat_texuniform[material] else repeat / (2.0 * half))
    return Mesh(
        vertices=np.pad(corners, ((0, 0), (0, 1))),
        faces=faces,
        normals=np.array([[0.0, 0.0, 1.0]]),
        normal_faces=np.zeros_like(faces),
        texcoords=texcoords,
        texcoord_faces=None if texture is None else faces,
        texture=texture,
    )


def _mesh(model: Any, i: int, material: int) -> Mesh:
    def rows(array: str, first: str, count: str) -> np.ndarray:
        at, n = (int(getattr(model, f"mesh_{name}")[i]) for name in (first, count))
        return getattr(model, f"mesh_{array}")[at : at + n].copy()

    texture = _flat_texture(model, material) if model.mesh_texcoordnum[i] else None
    return Mesh(
        vertices=rows("vert", "vertadr", "vertnum"),
        faces=rows("face", "faceadr", "facenum"),
        normals=rows("normal", "normaladr", "normalnum"),
        normal_faces=rows("facenormal", "faceadr", "facenum"),
        texcoords=rows("texcoord", "texcoordadr", "texcoordnum") if texture is not None else None,
        texcoord_faces=rows("facetexcoord", "faceadr", "facenum") if texture is not None else None,
        texture=texture,
    )


def _height_field(model: Any, i: int) -> Mesh:
    rows, columns, at = (int(a[i]) for a in (model.hfield_nrow, model.hfield_ncol, model.hfield_adr))
    half_x, half_y, top, _ = model.hfield_size[i]
    z = model.hfield_data[at : at + rows * columns].reshape(rows, columns) * top
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    slope_y, slope_x = np.gradient(z, 2.0 * half_y / (rows - 1), 2.0 * half_x / (columns - 1))
    normals = np.stack([-slope_x, -slope_y, np.ones_like(z)], axis=-1).reshape(-1, 3)
    k = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (corner.ravel() for corner in (k[:-1, :-1], k[:-1, 1:], k[1:, 1:], k[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Mesh(
        vertices=np.stack([x, y, z], axis=-1).reshape(-1, 3),
        faces=faces,
        normals=normals / np.linalg.norm(normals, axis=1, keepdims=True),
        normal_faces=faces,
    )
