"""Exploration noise: of the power asked for, every number standard normal, the same whenever it is asked for."""

import numpy as np
import pytest
from scipy import stats
from trimtab.learners.coloured_noise import ExplorationNoise


def series(noise, episode, decisions):
    return np.stack([noise.at(np.array([episode]), np.array([k]))[0] for k in range(decisions)])


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0, 2.0])
def test_power_falls_with_the_exponent(colour):
    noise = ExplorationNoise(colour, 512, 4, seed=3)
    found = np.stack([series(noise, episode, 512) for episode in range(40)])
    power = (np.abs(np.fft.rfft(found, axis=1)) ** 2).mean(axis=(0, 2))[1:-1]
    slope = np.polyfit(np.log(np.arange(1, 256)), np.log(power), 1)[0]
    assert slope == pytest.approx(-colour, abs=0.03)


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_each_decision_s_is_standard_normal(colour):
    noise = ExplorationNoise(colour, 100, 2, seed=1)
    episodes = np.arange(1500)
    found = np.concatenate([noise.at(episodes, np.full(1500, k)) for k in (0, 50, 99)])
    # Of one decision in many episodes, which are independent of each other.
    for part in np.split(found, 3):
        assert stats.kstest(part.ravel(), "norm").pvalue > 1e-3
        assert abs(np.corrcoef(part.T)[0, 1]) < 0.1


def test_what_comes_depends_on_seed_episode_and_decision_alone():
    one, other = (ExplorationNoise(1.0, 20, 3, seed=5) for _ in range(2))
    forwards = np.stack([one.at(np.array([7, 8]), np.array([k, 19 - k])) for k in range(20)])
    for k in (13, 2, 19):
        np.testing.assert_array_equal(other.at(np.array([8, 7]), np.array([19 - k, k]))[::-1], forwards[k])
    assert not np.isin(forwards[:, 0], forwards[:, 1]).any()
    assert not np.isin(series(ExplorationNoise(1.0, 20, 3, seed=6), 7, 20), forwards).any()


def test_episodes_without_end_go_on():
    noise = ExplorationNoise(1.0, 10**12, 1, seed=0)
    found = series(noise, 1, 2100)
    assert len(np.unique(found)) == 2100
    power = np.abs(np.fft.rfft(found[1024:2048, 0])) ** 2  # a series of its own, as pink as the first
    assert power[1:16].mean() > 10.0 * power[240:256].mean()


def test_an_exponent_below_zero_is_refused():
    with pytest.raises(ValueError, match="colour is -1"):
        ExplorationNoise(-1.0, 10, 1, seed=0)
