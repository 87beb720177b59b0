"""Recordings for rerun, read back without a viewer, and videos."""

import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import mujoco
import numpy as np
import pytest
import rerun as rr
from trimtab import robots, sim
from trimtab.controllers import loop
from trimtab.launch import outputs, recording, scenario, video
from trimtab.launch.cli import main


class Swing:
    """A controller that moves every joint a little."""

    def reset(self, seed):
        pass

    def __init__(self, nu):
        self.nu = nu

    def control(self, state):
        return 0.5 * np.sin(8.0 * state.time + np.arange(self.nu))


def run(name, steps, simulator="mujoco"):
    task = robots.load(name)
    plant = sim.make(simulator, task)
    episode = loop.run(plant, Swing(task.robot.nu), task=task, duration=steps * task.robot.dt, seed=1)
    return task, plant, episode


def columns(path):
    """All of a recording: the record batches by entity."""
    found = {}
    for chunk in rr.chunk.RrdReader(path).stream():
        found.setdefault(str(chunk.entity_path), []).append(chunk.to_record_batch())
    return found


def values(batches, name):
    """The column whose name holds `name`, its rows in the batches' order."""
    rows = []
    for batch in batches:
        for field in batch.schema.names:
            if name in field:
                rows += batch.column(field).to_pylist()
    return rows


def test_poses_curves_and_times_read_back(tmp_path):
    task, plant, episode = run("reacher-easy", 6)
    path = tmp_path / "r.rrd"
    recording.write(path, episode, plant.scene(), task)
    assert [p.name for p in tmp_path.iterdir()] == ["r.rrd"]
    found = columns(path)
    assert [v[0] for v in values(found["/reward"], "scalars")] == pytest.approx(episode.reward.tolist())
    seconds = [t.total_seconds() for t in values(found["/reward"], recording.TIMELINE)]
    assert seconds == pytest.approx(episode.time[1:].tolist(), abs=1e-6)
    for label, column in zip(task.robot.layout.labels, episode.y.T):
        path = next(p for p in found if p.replace("\\", "") == f"/readings/{label}")
        assert [v[0] for v in values(found[path], "scalars")] == pytest.approx(column.tolist())
    # The poses are those of a model of our own, moved to the recorded joint positions.
    model = task.robot.spec().compile()
    data = mujoco.MjData(model)
    logged = np.array(values(found["/world/bodies/finger"], "translation")).reshape(-1, 3)
    turned = np.array(values(found["/world/bodies/finger"], "quaternion")).reshape(-1, 4)
    assert len(logged) == len(episode) + 1
    for k, y in enumerate(episode.y):
        data.qpos[:] = y[:2]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(logged[k], data.body("finger").xpos, atol=1e-6)
        np.testing.assert_allclose(np.roll(turned[k], 1), data.body("finger").xquat, atol=1e-6)


def test_the_target_is_where_the_episode_drew_it(tmp_path):
    task, plant, episode = run("reacher-easy", 2)
    recording.write(tmp_path / "r.rrd", episode, plant.scene(), task)
    scene = plant.scene()
    scene.restore(episode.x[0])
    found = columns(tmp_path / "r.rrd")
    logged = np.array(values(found["/world/bodies/world/target"], "translation")).reshape(-1, 3)
    np.testing.assert_allclose(logged[0], scene.model.geom("target").pos, atol=1e-6)


@pytest.mark.parametrize("name", ["humanoid-walk", "quadruped-walk", "manipulator-bring_ball", "swimmer-swimmer6"])
def test_every_visible_shape_is_drawn(name, tmp_path):
    task, plant, episode = run(name, 2)
    recording.write(tmp_path / "r.rrd", episode, plant.scene(), task)
    model = plant.scene().model
    shapes = [p for p in columns(tmp_path / "r.rrd") if p.count("/") > 3 and p.startswith("/world/bodies/")]
    visible = 0
    for kind in ("geom", "site"):
        for i in range(getattr(model, f"n{kind}")):
            material = getattr(model, f"{kind}_matid")[i]
            own = getattr(model, f"{kind}_rgba")[i]
            alpha = model.mat_rgba[material][3] if material >= 0 and np.allclose(own, [0.5, 0.5, 0.5, 1.0]) else own[3]
            visible += getattr(model, f"{kind}_group")[i] <= 2 and alpha > 0.0
    assert len(shapes) == visible > 5


def test_meshes_and_height_fields(tmp_path):
    xml = """<mujoco><asset>
      <mesh name="tetra" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/>
      <hfield name="hills" nrow="3" ncol="4" size="2 1 0.5 0.1" elevation="0 0 0 0 0 1 1 0 0 0 0 0"/>
    </asset><worldbody>
      <geom type="hfield" hfield="hills"/>
      <body name="b"><freejoint/><geom type="mesh" mesh="tetra" mass="1"/></body>
    </worldbody></mujoco>"""
    model = mujoco.MjModel.from_xml_string(xml)
    tetra = recording._shape(model, "geom", 1, np.array([1, 2, 3, 255], np.uint8))
    points = np.array(tetra.vertex_positions.as_arrow_array().to_pylist())
    triangles = np.array(tetra.triangle_indices.as_arrow_array().to_pylist())
    a, b, c = (points[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    assert abs(np.linalg.norm(normals, axis=1).sum() / 2 - (1.5 + 3**0.5 / 2)) < 1e-6  # a corner of the unit cube
    assert ((a - points.mean(0)) * normals).sum(-1).min() > 0  # outwards
    hills = recording._shape(model, "geom", 0, np.array([1, 2, 3, 255], np.uint8))
    points = np.array(hills.vertex_positions.as_arrow_array().to_pylist())
    np.testing.assert_allclose(points.min(0), [-2.0, -1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(points.max(0), [2.0, 1.0, 0.5], atol=1e-6)
    assert len(hills.triangle_indices.as_arrow_array()) == 2 * 2 * 3


def test_without_a_scene_there_are_curves(tmp_path):
    task, _, episode = run("cartpole-swingup", 3)
    recording.write(tmp_path / "r.rrd", episode, None, task)
    found = columns(tmp_path / "r.rrd")
    assert "/reward" in found
    assert not any(path.startswith("/world") for path in found)


def test_record_option(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--duration", "0.1", "--planner.samples", "8", "--planner.iterations", "1"]
    assert main(["run", "pendulum-swingup", *quick, "--record", "p.rrd"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["p.rrd"]
    assert len(values(columns("p.rrd")["/reward"], "scalars")) == 5


def test_a_recording_that_was_cut_short_is_found_out(tmp_path, monkeypatch):
    task, plant, episode = run("pendulum-swingup", 2)
    flush = rr.RecordingStream.flush

    def full_disk(self, **kwargs):
        flush(self, **kwargs)
        for file in tmp_path.glob(".r.*"):
            file.write_bytes(b"")

    monkeypatch.setattr(rr.RecordingStream, "flush", full_disk)
    monkeypatch.setattr(rr.RecordingStream, "disconnect", lambda self: full_disk(self, timeout_sec=1.0))
    with pytest.raises(outputs.OutputError, match="disk full"):
        recording.write(tmp_path / "r.rrd", episode, plant.scene(), task)
    assert list(tmp_path.iterdir()) == []


def test_no_way_to_render_is_found_before_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(video, "_TRY", "raise SystemExit(1)")
    assert main(["run", "pendulum-swingup", "--video", "p.mp4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "libegl1" in err
    assert "libosmesa6" in err
    assert list(tmp_path.iterdir()) == []


def test_video_shows_the_run(tmp_path):
    try:
        backend = video.backend()
    except scenario.ScenarioError:
        pytest.skip("MuJoCo can not render on this machine")
    setup = scenario.resolve(scenario.find("cartpole-swingup"), duration=0.2)
    _, _, episode = run("cartpole-swingup", 20)
    path = tmp_path / "c.mp4"
    video.write(path, episode, setup, backend)
    frames = imageio_ffmpeg.read_frames(str(path))
    told = next(frames)
    assert told["size"] == (video.WIDTH, video.HEIGHT)
    pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
    assert len(pictures) == 7  # 0.2 s at 30 frames per second, both ends
    assert np.abs(pictures[0].astype(int) - pictures[-1]).max() > 50


def test_rerun_finds_nothing_wrong(tmp_path):
    rerun = Path(sys.executable).parent / "rerun"
    task, plant, episode = run("walker-walk", 3)
    recording.write(tmp_path / "r.rrd", episode, plant.scene(), task)
    done = subprocess.run([rerun, "rrd", "verify", tmp_path / "r.rrd"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
