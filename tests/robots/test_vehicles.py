"""Quadrotors and the car: their geometry, what they are rewarded for, and that their tasks can be done."""

import mujoco
import numpy as np
import pytest
from trimtab import robots, sim
from trimtab.robots import car, quadrotor


def readings(task, **values):
    y = np.zeros(task.robot.layout.size)
    for name, value in values.items():
        y[task.robot.layout[name]] = value
    return y


@pytest.mark.parametrize("name", ["planar_quadrotor-hover", "quadrotor-waypoints"])
def test_no_control_hovers(name):
    """Controls are shares of the thrust that carries the weight; gravity, mass and gains are consistent."""
    task = robots.load(name)
    model = task.robot.model
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.qacc, 0.0, atol=1e-12)
    data.ctrl[:] = -1.0
    mujoco.mj_forward(model, data)
    down = [0.0, -9.81, 0.0] if model.nv == 3 else [0.0, 0.0, -9.81, 0.0, 0.0, 0.0]
    np.testing.assert_allclose(data.qacc, down, atol=1e-12)


def test_quadrotors_rotors_turn_it_about_every_axis():
    """Roll by left less right, pitch by rear less front, yaw by one pair less the other."""
    model = robots.load("quadrotor-waypoints").robot.model
    data = mujoco.MjData(model)
    names = [model.actuator(i).name for i in range(4)]
    for signs, axis in (
        ({"front_left": 1, "front_right": -1, "rear_left": 1, "rear_right": -1}, 3),
        ({"front_left": -1, "front_right": -1, "rear_left": 1, "rear_right": 1}, 4),
        ({"front_left": 1, "front_right": -1, "rear_left": -1, "rear_right": 1}, 5),
    ):
        data.ctrl[:] = [0.5 * signs[name] for name in names]
        mujoco.mj_forward(model, data)
        assert data.qacc[axis] > 1.0
        np.testing.assert_allclose(np.delete(data.qacc, axis), 0.0, atol=1e-12)


def test_waypoints_follow_each_other_in_time():
    task = robots.load("quadrotor-waypoints")
    u, level = np.zeros(4), [1.0, 0.0, 0.0, 0.0]
    for k, place in enumerate(quadrotor.WAYPOINTS):
        for clock in (k * quadrotor.LEG, (k + 0.99) * quadrotor.LEG):
            at = readings(task, place=place, attitude=level, clock=clock)
            assert task.reward(at, u) == pytest.approx(1.0)
            assert task.success(at) == (k == len(quadrotor.WAYPOINTS) - 1)
            cost = task.cost(at, u, clock)
            assert cost == pytest.approx(0.0, abs=1e-12)
            beside = readings(task, place=np.add(place, [0.0, 0.5, 0.0]), attitude=level, clock=clock)
            assert task.reward(beside, u) < 0.95
            assert task.cost(beside, u, clock) == pytest.approx(0.5 * 4.0 * 0.25)
    late = readings(task, place=quadrotor.WAYPOINTS[-1], attitude=level, clock=100.0)
    assert task.success(late)


def test_waypoints_are_drawn():
    model = robots.load("quadrotor-waypoints").robot.model
    for i, place in enumerate(quadrotor.WAYPOINTS):
        np.testing.assert_allclose(model.site(f"waypoint{i}").pos, place)


def box_distance(point, centre):
    """From a point to a parked car, by the nearest of many points on it; 0 within."""
    x, y = np.meshgrid(np.linspace(-2.0, 2.0, 401) + centre[0], np.linspace(-0.9, 0.9, 181) + centre[1])
    return np.hypot(x - point[0], y - point[1]).min()


def test_clearance_is_geometric():
    task = robots.load("car-parking")
    rng = np.random.default_rng(0)
    radius = np.hypot(4.0 / 6.0, 0.9)
    for _ in range(30):
        heading = rng.uniform(-3.0, 3.0)
        axle = rng.uniform([-7.0, -1.0], [7.0, 4.0])
        view = task.robot.layout(readings(task, axle=axle, heading=heading))
        free = car.clearance(view).reshape(3, 3)
        along = np.array([np.cos(heading), np.sin(heading)])
        for circle, ahead in zip(free, (-4.0 / 3.0, 0.0, 4.0 / 3.0)):
            centre = axle + (1.3 + ahead) * along
            for found, parked in zip(circle, car.PARKED):
                distance = box_distance(centre, parked)
                if distance > 0.02:
                    assert found == pytest.approx(distance - radius, abs=0.01)
                else:
                    assert found <= 0.02 - radius
            assert circle[2] == pytest.approx(centre[1] - car.KERB - radius)


def test_the_circles_cover_the_car():
    corners = [(x, y) for x in np.linspace(-2.0, 2.0, 41) for y in (-0.9, 0.9)]
    radius = np.hypot(4.0 / 6.0, 0.9)
    for x, y in corners:
        assert min(np.hypot(x - c, y) for c in (-4.0 / 3.0, 0.0, 4.0 / 3.0)) <= radius + 1e-12


def test_parked_is_rewarded_and_touching_is_not():
    task = robots.load("car-parking")
    none = np.zeros(2)
    parked = readings(task, axle=[-1.3, 0.0])
    assert task.reward(parked, none) == pytest.approx(1.0)
    assert task.success(parked)
    for moved in ({"speed": 1.0}, {"heading": 0.1}, {"axle": [-1.0, 0.0]}):
        assert not task.success(readings(task, **({"axle": [-1.3, 0.0]} | moved)))
    assert task.reward(readings(task, axle=[3.0, 0.0]), none) == 0.0
    assert 0.0 < task.reward(readings(task, axle=[3.0, 3.0]), none) < 1.0
    assert (
        task.violations(parked, none, 0.0).max() < 0.0 < task.violations(readings(task, axle=[3, 0]), none, 0.0).max()
    )


def test_cars_turn_on_a_circle():
    """Of radius wheelbase / tan(steering)."""
    task = robots.load("car-parking")
    plant = sim.make("casadi", task)
    state = plant.reset(0)
    for _ in range(20):
        state = plant.step(np.array([0.0, 2.0]))
    radius, places = car.WHEELBASE / np.tan(0.4), []
    for _ in range(420):
        state = plant.step(np.array([0.4, 0.0]))
        places.append(state.y[:2])
    x, y = np.array(places).T
    assert state.y[3] == pytest.approx(2.0)
    assert 0.5 * (x.max() - x.min()) == pytest.approx(radius, rel=1e-3)
    assert 0.5 * (y.max() - y.min()) == pytest.approx(radius, rel=1e-3)


def test_cars_scene_shows_the_axle_and_the_heading():
    task = robots.load("car-parking")
    plant = sim.make("casadi", task)
    scene, state = plant.scene(), plant.reset(0)
    for _ in range(10):
        state = plant.step(np.array([0.5, 2.0]))
    scene.restore(state.x)
    body = scene.data.body("car")
    np.testing.assert_allclose(body.xpos[:2], state.y[:2])
    np.testing.assert_allclose(body.xmat[:2], [np.cos(state.y[2]), -np.sin(state.y[2])])
    np.testing.assert_allclose(scene.model.geom("hull").pos[0], car.WHEELBASE / 2.0)
    trace = task.trace(task.robot.layout(state.y))
    np.testing.assert_allclose(trace[:2], scene.data.geom("hull").xpos[:2])


@pytest.mark.parametrize("name", ["planar_quadrotor-hover", "quadrotor-waypoints", "car-parking"])
def test_starts_differ_and_repeat(name):
    task = robots.load(name)
    one, same, other = task.start(1), task.start(1), task.start(2)
    np.testing.assert_array_equal(one.qpos, same.qpos)
    np.testing.assert_array_equal(one.qvel, same.qvel)
    assert not np.array_equal(one.qpos, other.qpos)
    state = sim.make("casadi", task).reset(1)
    assert 0.0 < task.reward(state.y, np.zeros(task.robot.nu)) < 1.0
