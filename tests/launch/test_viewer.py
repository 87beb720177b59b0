"""What is drawn of a run, read back from its recording without a viewer."""

import subprocess
import sys
from pathlib import Path

import mujoco
import numpy as np
import pytest
import rerun as rr
from trimtab import robots, sim
from trimtab.controllers import loop
from trimtab.launch.viewer import geometry, picture, windows
from trimtab.launch.viewer.observer import Recorder, StreamView


@pytest.fixture
def drawn(swing, read, tmp_path):
    """Runs robot `name` and reads back what was drawn: (task, plant, episode, recording)."""

    def run(name, steps, **options):
        path = tmp_path / "drawn.rrd"
        stream = rr.RecordingStream("test", recording_id="test")
        stream.save(str(path))
        view = StreamView(stream)
        task, plant, episode = swing(name, steps, [view], **options)
        assert episode.notes == []
        assert episode.dropped_frames == {"StreamView": 0}
        stream.flush(timeout_sec=10.0)
        stream.disconnect()
        return task, plant, episode, read(path)

    return run


@pytest.mark.parametrize("name", ["reacher-easy", "humanoid-walk"])
def test_poses_are_mujocos(name, drawn):
    _, plant, episode, found = drawn(name, 12)
    scene = plant.scene()
    bodies = [b for b in range(scene.model.nbody) if scene.model.body_weldid[b] != 0]
    for b in bodies:
        path = f"/world/bodies/{scene.model.body(b).name}"
        times, places = found.column(path, "Transform3D:translation")
        turns = found.values(path, "Transform3D:quaternion").reshape(-1, 4)
        np.testing.assert_allclose(times, episode.time, atol=1e-8)
        for k, x in enumerate(episode.x):
            scene.restore(x)
            np.testing.assert_allclose(places[k][0], scene.data.xpos[b], atol=1e-5)
            np.testing.assert_allclose(np.roll(turns[k], 1), scene.data.xquat[b], atol=1e-6)


def test_plots_have_the_tasks_own_names_and_numbers(drawn):
    task, _, episode, found = drawn("humanoid-walk", 12)

    def names(plot):
        return found.column(f"/plots/{plot}", "SeriesLines:names")[1][0]

    assert names("reward") == ["reward"]
    assert names("cost") == ["cost", *(term.name for term in task.terms)]
    assert names("controls") == [*task.robot.actuators, "limit -1", "limit 1"]
    assert names("readings") == list(task.robot.layout.labels)
    assert names("planning")[:2] == ["plan [ms]", "control period [ms]"]
    assert names("misses") == ["deadline misses", "missed ticks"]
    times, rewards = found.column("/plots/reward", "Scalars:scalars")
    np.testing.assert_allclose(times, episode.time[1:], atol=1e-8)
    np.testing.assert_allclose(np.ravel(rewards), episode.reward)
    costs = found.values("/plots/cost", "Scalars:scalars")
    np.testing.assert_allclose(costs[:, 0], episode.cost)
    np.testing.assert_allclose(costs[:, 1:].sum(1), episode.cost)
    controls = found.values("/plots/controls", "Scalars:scalars")
    np.testing.assert_allclose(controls[:, :-2], episode.u)
    np.testing.assert_allclose(controls[:, -2:], np.tile([-1.0, 1.0], (12, 1)))
    np.testing.assert_allclose(found.values("/plots/readings", "Scalars:scalars"), episode.y[1:])
    planning = found.values("/plots/planning", "Scalars:scalars")
    np.testing.assert_allclose(planning[:, 1], 1e3 * episode.dt)
    np.testing.assert_allclose(planning[:, 2], 1e3 * episode.plan_age)


def test_candidates_prediction_and_trail_are_traced(drawn):
    task, _, episode, found = drawn("humanoid-walk", 12)
    times, strips = found.column("/world/plan/candidates", "LineStrips3D:strips")
    # Plans are made every 5 steps of 25 ms, and drawn as soon as 0.1 s have passed since the last.
    np.testing.assert_allclose(times, [0.025, 0.15, 0.275], atol=1e-8)
    first = np.array(strips[0])
    assert first.shape == (7, 17, 3)  # one of the eight has no finite cost; of 21 steps, 17 are drawn
    np.testing.assert_allclose(first[0, 0], task.trace(task.robot.layout(episode.y[0])), atol=1e-5)
    colours = found.values("/world/plan/candidates", "LineStrips3D:colors")[0]
    assert len(set(colours.tolist())) == 7
    assert colours[0] >> 8 == 0xFDE725  # the cheapest is yellow
    assert colours[-1] >> 8 == 0x440154
    prediction = np.array(found.column("/world/plan/prediction", "LineStrips3D:strips")[1][0])
    assert prediction.shape == (1, 17, 3)
    np.testing.assert_allclose(prediction[0], first[1], atol=1e-5)
    times, trails = found.column("/world/trail", "LineStrips3D:strips")
    path = task.trace(task.robot.layout(episode.y))
    for time, (trail,) in zip(times, trails):
        k = int(np.argmin(abs(episode.time - time)))
        np.testing.assert_allclose(trail[-1], path[k], atol=1e-5)
        assert len(trail) <= 68
    assert times[-1] > 0.2


def test_members_of_an_ensemble_make_a_fan(drawn):
    *_, found = drawn("reacher-easy", 6, members=5)
    fan = np.array(found.column("/world/plan/prediction", "LineStrips3D:strips")[1][0])
    assert fan.shape == (6, 17, 3)  # and their mean
    np.testing.assert_allclose(fan[5], fan[:5].mean(0), atol=1e-6)


def test_events_are_logged(drawn):
    _, _, episode, found = drawn("cartpole-balance", 12)
    texts = found.texts()
    assert texts[0] == "start: cartpole-balance, a control every 10 ms"
    assert any(text.startswith("replan: cost 1.5,") for text in texts)
    assert texts.count("success: the goal is met") == 1
    assert texts[-1] == f"done: return {episode.return_:.1f} in 12 steps"


def test_faults_are_events_seen_or_not(swing, read, tmp_path):
    class Faulty:
        """Asks for too much at two steps."""

        def reset(self, seed):
            self.k = 0

        def control(self, state):
            self.k += 1
            return np.array([np.nan if self.k in (3, 8, 9) else 0.0])

    task = robots.load("cartpole-balance")
    for late in (False, True):
        path = tmp_path / f"{late}.rrd"
        stream = rr.RecordingStream("test", recording_id="test")
        stream.save(str(path))
        view = StreamView(stream)
        if late:  # as after a flood: nothing was seen while the run went on
            view.step = lambda *args: None
        plant = sim.make("mujoco", task)
        episode = loop.run(plant, Faulty(), task=task, duration=0.12, seed=1, observers=[view])
        stream.flush(timeout_sec=10.0)
        stream.disconnect()
        warned = [text for text in read(path).texts() if "nan" in text]
        assert len(warned) == len(episode.events) == 2
        times, _ = read(path).column("/plots/reward", "Scalars:scalars")
        np.testing.assert_allclose(times, episode.time[1:], atol=1e-8)
        times, _ = read(path).column("/world/trail", "LineStrips3D:strips")
        np.testing.assert_allclose(times[-1], 0.12, atol=1e-8)


def test_the_target_is_where_the_episode_drew_it(drawn):
    _, plant, episode, found = drawn("reacher-easy", 3)
    scene = plant.scene()
    scene.restore(episode.x[0])
    place = found.values("/world/bodies/world/target", "Transform3D:translation")[-1]
    np.testing.assert_allclose(np.ravel(place), scene.model.geom("target").pos, atol=1e-6)


@pytest.mark.parametrize("name", ["humanoid-walk", "quadruped-walk", "manipulator-bring_ball", "swimmer-swimmer6"])
def test_every_visible_shape_is_drawn(name, drawn):
    _, plant, _, found = drawn(name, 2)
    model = plant.scene().model
    shapes = [p for p in found.paths("/world/bodies/") if p.count("/") > 3]
    visible = 0
    for kind in ("geom", "site"):
        for i in range(getattr(model, f"n{kind}")):
            material = getattr(model, f"{kind}_matid")[i]
            own = getattr(model, f"{kind}_rgba")[i]
            alpha = model.mat_rgba[material][3] if material >= 0 and np.allclose(own, [0.5, 0.5, 0.5, 1.0]) else own[3]
            visible += getattr(model, f"{kind}_group")[i] <= 2 and alpha > 0.0
    assert len(shapes) == visible > 5


def test_a_string_is_drawn_from_end_to_end(drawn):
    _, plant, episode, found = drawn("ball_in_cup-catch", 4)
    (path,) = found.paths("/world/tendons/")
    times, strips = found.column(path, "LineStrips3D:strips")
    np.testing.assert_allclose(times, episode.time, atol=1e-8)
    scene = plant.scene()
    for x, (strip,) in zip(episode.x, strips):
        scene.restore(x)
        sites = scene.model.wrap_objid[:2]
        np.testing.assert_allclose(np.array(strip)[[0, -1]], scene.data.site_xpos[sites], atol=1e-6)


EVERYTHING = """<mujoco><asset>
  <mesh name="tetra" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/>
  <hfield name="hills" nrow="3" ncol="4" size="2 1 0.5 0.1" elevation="0 0 0 0 0 1 1 0 0 0 0 0"/>
  <texture name="checks" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 0 1" width="64" height="64"/>
  <texture name="skin" type="cube" builtin="flat" rgb1="0 .5 0" rgb2="0 .5 0" width="8" height="8"/>
  <material name="floor" texture="checks" texrepeat="4 4"/>
  <material name="body" texture="skin" rgba="1 1 1 1"/>
</asset><worldbody>
  <geom name="plane" type="plane" size="2 3 .1" material="floor"/>
  <geom name="hills" type="hfield" hfield="hills"/>
  <geom name="hidden" type="box" size="1 1 1" group="3"/>
  <geom name="glass" type="box" size="1 1 1" rgba="1 1 1 0"/>
  <body name="fixed" pos="1 2 3"><geom name="box" type="box" size=".1 .2 .3" rgba="0 1 0 .5"/></body>
  <body name="mover" mocap="true" pos="0 0 1"><geom name="ball" type="sphere" size=".4" material="body"/></body>
  <body name="b/c [1]"><freejoint/>
    <geom name="egg" type="ellipsoid" size=".1 .2 .3"/>
    <geom name="pill" type="capsule" size=".1 .5"/>
    <geom name="can" type="cylinder" size=".2 .6"/>
    <geom type="mesh" mesh="tetra" mass="1"/>
    <site name="egg" type="box" size=".01 .02 .03" pos="0 0 .5"/>
  </body>
</worldbody></mujoco>"""


def test_every_kind_of_shape():
    model = mujoco.MjModel.from_xml_string(EVERYTHING)
    shapes = {shape.path.removeprefix("world/bodies/"): shape for shape in geometry.shapes(model)}
    free = r"b\/c\ \[1\]"
    assert set(shapes) == {
        *("world/plane", "world/hills", "fixed/box", "mover/ball"),
        *(f"{free}/{name}" for name in ("egg", "pill", "can", "geom9", "sites/egg")),
    }
    assert all(rr.escape_entity_path_part(name) == geometry.part(name) for name in ("a b", "c/d", "x[0]", "ü.-_"))
    assert [model.body(b).name for b in geometry.moving(model)] == ["mover", "b/c [1]"]
    assert shapes["fixed/box"].colour.tolist() == [0, 255, 0, 128]
    np.testing.assert_allclose(shapes["mover/ball"].colour, [0, 127.5, 0, 255], atol=1)
    np.testing.assert_allclose(shapes["mover/ball"].size, 0.4)
    np.testing.assert_allclose(shapes[f"{free}/pill"].size[:2], [0.1, 0.5])
    plane = shapes["world/plane"].mesh
    np.testing.assert_allclose(np.ptp(plane.vertices, axis=0), [4.0, 6.0, 0.0])
    np.testing.assert_allclose(np.ptp(plane.texcoords, axis=0), [4.0, 4.0])
    assert plane.texture.shape == (64, 64, 3)
    hills = shapes["world/hills"].mesh
    np.testing.assert_allclose(hills.vertices.min(0), [-2.0, -1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(hills.vertices.max(0), [2.0, 1.0, 0.5], atol=1e-6)
    assert len(hills.faces) == 2 * 2 * 3
    # As triangles for rerun, each corner with its own normal: a corner of the unit cube, seen from outside.
    tetra = picture._triangles(shapes[f"{free}/geom9"].mesh, np.array([1, 2, 3, 255], np.uint8))
    points = np.array(tetra.vertex_positions.as_arrow_array().to_pylist())
    triangles = np.array(tetra.triangle_indices.as_arrow_array().to_pylist())
    a, b, c = (points[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    assert abs(np.linalg.norm(normals, axis=1).sum() / 2 - (1.5 + 3**0.5 / 2)) < 1e-6
    assert ((a - points.mean(0)) * normals).sum(-1).min() > 0


def test_the_camera_follows_what_travels():
    for name, followed in (("cheetah-run", "torso/torso"), ("manipulator-bring_ball", None), ("reacher-easy", None)):
        task = robots.load(name)
        plant = sim.make("mujoco", task)
        scene = plant.scene()
        scene.restore(plant.reset(0).x)
        eye = geometry.eye(scene.model, scene.data)
        assert eye.follow == (followed and f"world/bodies/{followed}")
        # The whole robot is in the picture: nearer to the target than half of the eye's distance.
        reach = np.linalg.norm(scene.data.xpos[geometry.moving(scene.model)] - eye.target, axis=1).max()
        assert reach < 0.5 * np.linalg.norm(eye.position - eye.target)


def test_without_a_scene_there_are_curves(swing, read, tmp_path):
    stream = rr.RecordingStream("test", recording_id="test")
    stream.save(str(tmp_path / "r.rrd"))
    view = StreamView(stream)
    task = robots.load("gymnasium:CartPole-v1")

    class Left:
        def reset(self, seed):
            pass

        def control(self, state):
            return np.zeros(task.robot.nu)

    plant = sim.make("gymnasium", task)
    loop.run(plant, Left(), task=task, duration=5 * task.robot.dt, observers=[view])
    stream.flush(timeout_sec=10.0)
    stream.disconnect()
    found = read(tmp_path / "r.rrd")
    assert len(found.column("/plots/reward", "Scalars:scalars")[0]) == 5
    assert found.paths("/world/bodies") == []


def test_rerun_finds_nothing_wrong_and_the_file_is_small(swing, tmp_path):
    rerun = Path(sys.executable).parent / "rerun"
    sizes = []
    for steps in (100, 300):
        path = tmp_path / f"{steps}.rrd"
        recorder = Recorder(path, "test")
        _, _, episode = swing("humanoid-walk", steps, [recorder])
        assert (episode.notes, recorder.trouble, recorder.shown) == ([], None, steps)
        recorder.check()
        recorder.close()
        sizes.append(path.stat().st_size)
        done = subprocess.run([rerun, "rrd", "verify", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["100.rrd", "300.rrd"]
    # Growth per frame; half of it are the candidates of a plan every 5 steps.
    assert (sizes[1] - sizes[0]) / 200 < 6000


def test_a_window_needs_a_display(monkeypatch):
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    assert windows.check("auto") == "off"
    assert windows.check("web") == "web"
    with pytest.raises(windows.ViewError, match=r"--view native needs a display: neither DISPLAY .* --view web"):
        windows.check("native")
    monkeypatch.setenv("DISPLAY", ":4711")
    assert windows.check("auto") == "off"
    with pytest.raises(windows.ViewError, match="':4711', but nothing is there"):
        windows.check("native")
    with pytest.raises(ValueError, match=r"(?s)unknown view 'naitve'.*native"):
        windows.check("naitve")
