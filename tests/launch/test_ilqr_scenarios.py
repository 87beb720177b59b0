"""Shipped scenarios that plan with derivatives, run to where it can be told whether they do what they are for."""

import dataclasses
import json

import numpy as np
import pytest
from trimtab import robots
from trimtab.controllers.episode import Episode
from trimtab.launch.cli import main
from trimtab.robots.car import clearance
from trimtab.robots.quadrotor import LEG, WAYPOINTS


@pytest.fixture
def ran(tmp_path, capsys):
    """Runs a scenario for some seconds: its result, and the episode."""

    def run(name, duration, seed=100, *more):
        kept = tmp_path / "e.npz"
        arguments = ["--duration", str(duration), "--seed", str(seed), "--record", str(kept), "--json", "-"]
        assert main(["run", name, *arguments, *more]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["fallbacks"] == 0
        return result, Episode.load(kept)

    return run


@pytest.mark.parametrize("seed", [100, 101])
@pytest.mark.parametrize("name", ["car-parking", "car-parking-ilqr"])
def test_the_car_parks_and_touches_nothing(name, seed, ran):
    result, episode = ran(name, 6.0, seed)
    y = robots.load("car-parking").robot.layout(episode.y)
    assert clearance(y).min() > 0.05  # half of the margin that its terms ask for, softly
    assert result["success"]


@pytest.mark.parametrize("seed", [101, 106])
def test_a_constraint_alone_keeps_the_car_clear(seed, ran, monkeypatch):
    task = robots.load("car-parking")
    least = {}
    for constraints in (task.constraints, ()):
        terms = tuple(term for term in task.terms if term.name != "clearance")
        bare = dataclasses.replace(task, terms=terms, constraints=constraints)
        monkeypatch.setattr(robots, "load", lambda name, bare=bare: bare)
        _, episode = ran("car-parking-ilqr", 6.0, seed)
        least[bool(constraints)] = clearance(task.robot.layout(episode.y)).min()
    assert least[True] > -1e-3
    assert least[False] < -0.02


@pytest.mark.parametrize("seed", [100, 101, 102])
def test_the_planar_quadrotor_ends_level_at_its_place(seed, ran):
    _, episode = ran("planar_quadrotor-hover", 5.0, seed)
    x, z, pitch = episode.y[-1, :3]
    np.testing.assert_allclose([x, z], [0.0, 1.0], atol=2e-3)
    assert np.cos(pitch) > 1.0 - 1e-5
    np.testing.assert_allclose(episode.y[-1, 3:], 0.0, atol=1e-2)


def test_the_quadrotor_passes_the_waypoints_in_turn_and_stays_at_the_last(ran):
    _, episode = ran("quadrotor-waypoints", 10.0)
    ends = LEG * np.arange(1, len(WAYPOINTS))
    for place, time in zip(WAYPOINTS, np.split(np.arange(len(episode.time)), np.searchsorted(episode.time, ends))):
        assert np.linalg.norm(episode.y[time, :3] - place, axis=1).min() < 0.1
    np.testing.assert_allclose(episode.y[-1, :3], WAYPOINTS[-1], atol=1e-2)


def test_the_cartpole_is_up_within_two_seconds_and_stays(ran):
    _, episode = ran("cartpole-swingup-ilqr", 4.0)
    assert (np.cos(episode.y[episode.time > 2.0, 1]) > 0.95).all()
