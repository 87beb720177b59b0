"""Rigid bodies in numbers: a pinocchio Model's joints and masses, arranged so that little is left to compute.

Each joint's axis is made the z axis of its body's frame, and constant rotations keep their zeros. Of a body's mass,
what would move the same way if it were fixed to the body before is given to that body (base parameters: Khalil and
Bennis, 1994): of the mass m, the first moments h = sum(m r) and the second moments J = sum(m r r'), m, one of h and one
of J vanish for a revolute joint. What follows from the numbers is in `posture.py`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..robots.plugins import UnknownName

ROUNDING = 1e-12
"""Entries of constant rotations nearer than this to 0, 1 or -1 are that number."""

KNOWN = (
    "revolute and continuous, prismatic (about and along any axis), spherical, spherical ZYX, translation, free-flyer, "
    "composite"
)
"""Kinds of joints, in words."""

TURNING = ("revolute", "continuous")
"""Kinds of joints that turn about one axis."""


@dataclass
class Link:
    """A joint and the body that it moves, in a frame whose z axis is that of a revolute or prismatic joint.

    Attributes:
        kind: `revolute`, `continuous` (of which a configuration holds cosine and sine), `prismatic`, `spherical` or
            `free`.
        parent: index of the link before it, -1 for the world.
        rotation: (3, 3) from the joint's axes at rest to those of `parent`.
        translation: (3,) the joint's place in `parent` [m].
        q, v: where the joint's entries begin in a configuration and in a velocity.
        nv: degrees of freedom.
        align: (3, 3) from the link's axes to those that pinocchio has for it.
        mass: [kg].
        first: (3,) first moments of mass [kg m].
        second: (3, 3) second moments of mass [kg m^2].
    """

    kind: str
    parent: int
    rotation: np.ndarray
    translation: np.ndarray
    q: int
    v: int
    nv: int
    align: np.ndarray
    mass: float = 0.0
    first: np.ndarray = field(default_factory=lambda: np.zeros(3))
    second: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))

    def hand_down(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Takes off the mass that moves as if it were fixed to the parent; its moments in the parent's frame.

        That is mass on the axis of a revolute joint (which turning about it does not move), the mass at the centre of a
        spherical one, and the second moments of what only slides.
        """
        mass, first, second = 0.0, np.zeros(3), np.zeros((3, 3))
        if self.kind in TURNING:
            mass, first[2], second[2, 2] = self.mass, self.first[2], self.second[2, 2]
        elif self.kind == "spherical":
            mass = self.mass
        elif self.kind == "prismatic":
            second = self.second
        self.mass, self.first, self.second = self.mass - mass, self.first - first, self.second - second
        turned, place = self.rotation @ first, self.translation
        across = np.outer(place, turned)
        carried = self.rotation @ second @ self.rotation.T + across + across.T + mass * np.outer(place, place)
        return mass, turned + mass * place, carried


class RigidBody:
    """The bodies and joints of a pinocchio Model, free of contacts.

    Configurations q (nq,) and velocities v (nv,) are pinocchio's: quaternions are (x, y, z, w), and the velocity of a
    free-flyer is its linear one and then its angular one, both in its own axes.

    Attributes:
        nq, nv: sizes of configurations and velocities.
        links: parents before children.
        ancestors: of each degree of freedom, the ones that carry it, the nearest first.
        armature: inertia of the rotors, as the joints feel it (nv,) [kg m^2, or kg].
        gravity: (3,) [m/s^2].

    Raises:
        ValueError: joints that are not of a supported kind; the message names them, and lists those kinds.
    """

    def __init__(self, model: Any) -> None:
        odd = [f"{name!r} ({kind})" for name, joint in zip(model.names, model.joints) for kind in _unsupported(joint)]
        if odd:
            raise ValueError(f"the model has joints of kinds that are not supported: {', '.join(odd)}. Known: {KNOWN}")
        self.model = model
        self.nq, self.nv = int(model.nq), int(model.nv)
        self.armature = np.array(model.armature, float)
        self.gravity = np.array(model.gravity.linear, float)
        self.links: list[Link] = []
        self._carriers = [-1]  # the link that is the body of each of pinocchio's joints, the world first
        for joint in range(1, model.njoints):
            self._append(joint)
        for link in reversed(self.links):
            moments = link.hand_down()
            if link.parent >= 0:
                _load(self.links[link.parent], *moments)
        self.ancestors = self._carrying()

    def _append(self, joint: int) -> None:
        """Appends the links of pinocchio's joint, the last of which is its body."""
        model = self.model
        parent, place = self._carriers[model.parents[joint]], model.jointPlacements[joint]
        for kind, axis, placement, q, v in _elementary(model.joints[joint]):
            place = place * placement
            align = _aligned(axis)
            before = self.links[parent].align if parent >= 0 else np.eye(3)
            self.links.append(
                Link(
                    kind=kind,
                    parent=parent,
                    rotation=_rounded(before.T @ place.rotation @ align),
                    translation=_rounded(before.T @ place.translation),
                    q=q,
                    v=v,
                    nv={"spherical": 3, "free": 6}.get(kind, 1),
                    align=align,
                )
            )
            parent, place = len(self.links) - 1, place.Identity()
        self._carriers.append(parent)
        body, link = model.inertias[joint], self.links[parent]
        centre = link.align.T @ body.lever
        # pinocchio's inertia is about the centre of mass: J = tr(I) / 2 - I.
        about = link.align.T @ body.inertia @ link.align
        second = 0.5 * np.trace(about) * np.eye(3) - about + body.mass * np.outer(centre, centre)
        _load(link, body.mass, body.mass * centre, second)

    def _carrying(self) -> tuple[tuple[int, ...], ...]:
        found: list[tuple[int, ...]] = [()] * self.nv
        last: list[tuple[int, ...]] = []  # of each link: its degrees of freedom, and those that carry it
        for link in self.links:
            chain = last[link.parent] if link.parent >= 0 else ()
            for k in range(link.v, link.v + link.nv):
                found[k] = chain
                chain = (k, *chain)
            last.append(chain)
        return tuple(found)

    def frame(self, name: str) -> tuple[int, np.ndarray, np.ndarray]:
        """The link that frame `name` is fixed to, -1 for the world, its axes (3, 3) and its place (3,) [m] there.

        Raises:
            UnknownName: the model has no such frame; the message lists those it has, and the nearest.
        """
        if not self.model.existFrame(name):
            raise UnknownName("frame", name, {frame.name for frame in self.model.frames})
        frame = self.model.frames[self.model.getFrameId(name)]
        link = self._carriers[frame.parentJoint]
        align = self.links[link].align if link >= 0 else np.eye(3)
        return link, _rounded(align.T @ frame.placement.rotation), _rounded(align.T @ frame.placement.translation)


def _load(link: Link, mass: float, first: np.ndarray, second: np.ndarray) -> None:
    """Adds what is fixed to the link, given by its moments in the link's frame."""
    link.mass, link.first, link.second = link.mass + mass, link.first + first, link.second + second


def _rounded(array: np.ndarray) -> np.ndarray:
    nearest = np.round(array)
    return np.where(np.abs(array - nearest) < ROUNDING, nearest, array)


def _aligned(axis: np.ndarray) -> np.ndarray:
    """A rotation (3, 3) that takes the z axis to the unit vector `axis`, with as many zeros as can be."""
    axis = _rounded(axis / np.linalg.norm(axis))
    if axis[2] == 1.0:
        return np.eye(3)
    side = np.zeros(3)
    side[np.argmin(np.abs(axis))] = 1.0
    across = np.cross(axis, side)
    across /= np.linalg.norm(across)
    return np.column_stack([np.cross(across, axis), across, axis])


def _kind(joint: Any) -> str:
    return joint.shortname().removeprefix("JointModel")


def _unsupported(joint: Any) -> list[str]:
    """Pinocchio's kinds of what the joint is made of that are not supported."""
    kind = _kind(joint)
    if kind == "Composite":
        return [odd for part in joint.extract().joints for odd in _unsupported(part)]
    return [] if kind in (*_KINDS, *_SPLIT) else [kind]


def _elementary(joint: Any) -> list[tuple[str, np.ndarray, Any, int, int]]:
    """The revolute, prismatic, spherical and free joints that pinocchio's joint is made of, one after the other.

    Returns:
        of each: its kind, its axis (3,), its placement after the one before, and where its entries begin in q and v.
    """
    import pinocchio as pin

    kind, there = _kind(joint), pin.SE3.Identity()
    if kind == "Composite":
        parts = joint.extract()
        return [
            (simple, axis, placement * inner, q, v)
            for part, placement in zip(parts.joints, parts.jointPlacements)
            for simple, axis, inner, q, v in _elementary(part)
        ]
    if kind in _SPLIT:
        simple, axes = _SPLIT[kind]
        return [(simple, axis, there, joint.idx_q + i, joint.idx_v + i) for i, axis in enumerate(axes)]
    axis = np.array([0.0, 0.0, 1.0])
    if joint.nv == 1:  # then the joint's motion is constant, along or about the axis
        axis = joint.createData().S.reshape(2, 3).sum(0)
    return [(_KINDS[kind], axis, there, joint.idx_q, joint.idx_v)]


_KINDS = {
    **dict.fromkeys(("RX", "RY", "RZ", "RevoluteUnaligned"), "revolute"),
    **dict.fromkeys(("RUBX", "RUBY", "RUBZ", "RevoluteUnboundedUnaligned"), "continuous"),
    **dict.fromkeys(("PX", "PY", "PZ", "PrismaticUnaligned"), "prismatic"),
    "Spherical": "spherical",
    "FreeFlyer": "free",
}

_SPLIT = {"Translation": ("prismatic", np.eye(3)), "SphericalZYX": ("revolute", np.eye(3)[::-1])}
"""Kinds that are three simple joints one after the other: of each the kind, and the axes (3, 3) as rows."""
