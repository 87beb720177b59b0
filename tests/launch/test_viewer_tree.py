"""A search tree as it is drawn, read back from the recording."""

import numpy as np
import rerun as rr
from trimtab import robots, sim
from trimtab.controllers import MPC, loop
from trimtab.controllers.mcts import MCTS
from trimtab.launch.viewer.observer import StreamView


class Watch:
    """Keeps the plans."""

    def __init__(self):
        self.plans = []

    def start(self, scene, task):
        pass

    def step(self, state, u, plan, timing):
        if not self.plans or plan is not self.plans[-1]:
            self.plans.append(plan)

    def end(self, episode):
        pass


def test_trees_are_drawn_and_told(read, tmp_path):
    stream = rr.RecordingStream("test", recording_id="tree")
    stream.save(str(tmp_path / "tree.rrd"))
    task = robots.load("pendulum-swingup")
    planner = MCTS(horizon=30, replan=5, segment=5, levels=5, simulations=150)
    controller, watch = MPC(planner, sim.dynamics("casadi", task), task), Watch()
    plant = sim.make("casadi", task)
    episode = loop.run(plant, controller, task=task, duration=0.3, observers=[StreamView(stream), watch], seed=100)
    assert episode.notes == []
    stream.flush(timeout_sec=10.0)
    stream.disconnect()
    found = read(tmp_path / "tree.rrd")

    times, strips = found.column("/world/plan/tree", "LineStrips3D:strips")
    np.testing.assert_allclose(times, [0.02, 0.12, 0.22], atol=1e-8)  # a plan every five steps of 20 ms
    first = watch.plans[0].explored
    begins = task.trace(task.robot.layout(first.branches))
    np.testing.assert_allclose(np.array(strips[0]), begins, atol=1e-5)
    assert len(strips[0]) == watch.plans[0].stats["nodes"] - 1
    # The most visited branch begins at the root; every other where another one ends.
    np.testing.assert_allclose(first.branches[0, 0], episode.y[0])
    ends = {tuple(y) for y in first.branches[:, 1]} | {tuple(episode.y[0])}
    assert all(tuple(y) in ends for y in first.branches[:, 0])
    colours = found.column("/world/plan/tree", "LineStrips3D:colors")[1][0]
    assert np.array(colours)[first.values.argmax()] >> 8 == 0xFDE725  # the best is yellow
    texts = [text for row in found.column("/log", "TextLog:text")[1] for text in row]
    told = [text for text in texts if text.startswith("replan")]
    assert len(told) == 3
    for text, plan in zip(told, watch.plans):
        assert f"a tree of depth {plan.stats['depth']}, {plan.stats['nodes']} nodes, " in text
        assert text.endswith(" simulations/s")
