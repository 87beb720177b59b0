"""What closed forms take from MuJoCo's models, and which numbers they refuse."""

import mujoco
import pytest
from trimtab.robots.symbolic import Symbolic, moment, motion_of


def still(x, u, h):
    raise AssertionError("not asked for")


def symbolic(**given):
    return Symbolic(**({"nq": 7, "nv": 6, "nu": 1, "derivative": still, "timestep": 0.01, "quaternions": (3,)} | given))


def test_sizes_of_state_and_tangent():
    assert (symbolic().nx, symbolic().tangent) == (13, 12)
    assert (symbolic(nq=4, nv=0, quaternions=()).nx, symbolic(nq=4, nv=0, quaternions=()).tangent) == (4, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"nv": 7}, "7 positions with 1 quaternions move by 6 velocities"),
        ({"quaternions": (4,)}, r"quaternions \(4,\) do not fit into 7 positions"),
        ({"nq": 9, "nv": 7, "quaternions": (0, 3)}, "do not fit"),
        ({"timestep": 0.0}, "the time step is 0 s; it must be positive"),
        ({"timestep": float("nan")}, "must be positive"),
        ({"integrator": "verlet"}, "unknown integrator 'verlet'. Known: euler, rk4"),
    ],
)
def test_what_does_not_fit_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        symbolic(**given)


BODIES = """
<mujoco><option timestep="0.005" integrator="{integrator}"/><worldbody>
  <body name="first"><freejoint/><geom size=".1"/>
    <body name="second" pos="1 0 0"><joint type="ball"/>
      <inertial pos="0 0 0" quat=".7 .2 -.3 .4" mass="2" diaginertia=".3 .2 .15"/>
      <body pos="1 0 0"><joint/><geom size=".1"/></body></body></body>
</worldbody></mujoco>"""


def bodies(integrator="Euler"):
    return mujoco.MjModel.from_xml_string(BODIES.format(integrator=integrator))


def test_motion_is_read_from_the_model():
    assert motion_of(bodies()) == {
        "nq": 12, "nv": 10, "nu": 0, "timestep": 0.005, "integrator": "euler", "quaternions": (3, 7),
    }  # fmt: skip
    assert motion_of(bodies("RK4"))["integrator"] == "rk4"
    with pytest.raises(ValueError, match="Euler and RK4, not mjINT_IMPLICITFAST"):
        motion_of(bodies("implicitfast"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_moment_is_about_the_bodys_own_axis(axis):
    """Half w'Iw of a body that turns about it: MuJoCo's kinetic energy."""
    model = bodies()
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    data = mujoco.MjData(model)
    data.qvel[6 + axis] = 1.0  # the ball joint's, with the child at a distance
    mujoco.mj_forward(model, data)
    child = model.body(3)
    far = 0.0 if axis == 0 else child.mass[0]  # at a metre along x
    expected = data.energy[1] - 0.5 * (child.inertia[0] + far)
    assert 0.5 * moment(model, "second", axis) == pytest.approx(expected, rel=1e-12)
