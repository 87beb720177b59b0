"""Scenario files: what they may say, and that every shipped one runs."""

import json
import tomllib

import pytest
from trimtab import robots
from trimtab.launch import scenario
from trimtab.launch.cli import main
from trimtab.launch.scenario import UnknownName, find, parse, resolve
from trimtab.launch.settings import ScenarioError
from trimtab.robots import plugins

CARTPOLE = 'task = "cartpole-swingup"\n'


def told(text: str, **asked):
    return resolve(parse(CARTPOLE + text, "mine", "mine.toml"), **asked)


def test_every_task_has_a_scenario():
    installed = {name: plugins.origin("robots", name.partition("-")[0]) for name in robots.names()}
    ours = {name for name, origin in installed.items() if origin.startswith("trimtab.")}
    assert set(scenario.names()) >= ours
    for name in set(scenario.names()) - ours:  # the same task, planned in another way
        setup = resolve(find(name))
        assert setup.task.name in ours
        assert name == f"{setup.task.name}-{setup.planner_name}"


@pytest.mark.parametrize("name", scenario.names())
def test_shipped_scenario_runs_three_steps(name, capsys):
    setup = resolve(find(name))
    assert name in (setup.task.name, f"{setup.task.name}-{setup.planner_name}")
    assert resolve(find(name), clock="wall").planner.horizon >= 1
    # The settings as shipped have been resolved; running them whole would take minutes on a small machine.
    least = {"horizon": 12, "knots": 4, "samples": 8, "iterations": 1}
    known = {field: getattr(setup.planner, field) for field in least if hasattr(setup.planner, field)}
    quick = [f"--planner.{field}={min(value, least[field])}" for field, value in known.items()]
    duration = ["--duration", str(3 * setup.task.robot.dt)]
    assert main(["run", name, *duration, *quick, "--record", "off", "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == 3
    assert result["fallbacks"] == 0
    assert 0.0 <= result["return"] <= 3.0 + 1e-9


def test_a_task_is_a_scenario_with_default_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(scenario, "names", lambda: [])
    setup = resolve(find("walker-walk"))
    assert (setup.simulator, setup.dynamics, setup.planner_name) == ("mujoco", "mujoco", "cem")
    assert setup.duration == setup.task.duration


@pytest.mark.parametrize("name", ["dm_control:dog-run", "gymnasium:Pendulum-v1"])
def test_another_library_is_its_own_simulator(name):
    library = name.partition(":")[0]
    setup = resolve(find(name))
    assert (setup.simulator, setup.dynamics) == (library, library)


def test_planner_by_name_or_table():
    assert told('planner = "mppi"').planner_name == "mppi"
    assert told('[planner]\nname = "mppi"\nsamples = 9').planner.samples == 9
    assert told("[planner]\nsamples = 9").planner_name == "cem"


def test_horizon_as_time():
    assert told('[planner]\nhorizon = "0.5s"').planner.horizon == 50
    assert told('[planner]\nhorizon = "300 ms"').planner.horizon == 30
    assert told("", overrides={"horizon": "1s"}).planner.horizon == 100


def test_wall_overrides_apply_under_the_wall_clock_only():
    text = "[planner]\nsamples = 40\nknots = 7\n[wall.planner]\nsamples = 20\n"
    assert told(text).planner.samples == 40
    assert told(text, clock="wall").planner.samples == 20
    assert told(text, clock="wall").planner.knots == 7
    assert told(text, clock="wall", overrides={"samples": "30"}).planner.samples == 30


def test_another_planner_keeps_the_settings_that_it_has_too():
    text = "[planner]\nsamples = 40\nhorizon = 33\nelites = 0.3\n"
    setup = told(text, planner="mppi")
    assert (setup.planner.samples, setup.planner.horizon) == (40, 33)
    assert not hasattr(setup.planner, "elites")


def test_safety_settings():
    safety = told('[safety]\nfallback = "zero"\nrate = [0.5]\nfallbacks = {nan = "hold"}').safety
    assert safety.fallback == "zero"
    assert safety.rate.tolist() == [0.5]
    assert safety.of("nan") == "hold"


def test_whole_configuration_reads_back():
    setup = told('duration = 2\n[planner]\nhorizon = "0.5s"\n[safety]\nrate = [0.5]\n')
    again = resolve(parse(setup.toml(), "x", "x.toml"))
    assert again.planner == setup.planner
    assert again.duration == setup.duration
    assert again.scenario == "mine"
    assert again.toml() == setup.toml()
    assert set(tomllib.loads(setup.toml())["planner"]) >= {"name", "horizon", "samples", "risk"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('planer = "cem"', "unknown key 'planer' in mine.toml; did you mean 'planner'? Known: name, task"),
        ("[planner]\nname = \n", "line 3"),
        ("[planner]\nsampels = 3", "did you mean 'samples'?"),
        ('[planner]\nsamples = "many"', "mine.toml: planner.samples takes a whole number, not 'many'"),
        ("[planner]\nsamples = true", "takes a whole number, not True"),
        ("[planner]\nnoise = [1]", "planner.noise takes a number, not [1]"),
        ("[planner]\nsamples = -3", "mine.toml: samples is -3"),
        ("[planner]\nnoise = nan", "noise is nan"),
        ('[planner]\nspline = "line"', "one of zero, linear, cubic, not 'line'; did you mean 'linear'?"),
        (
            '[planner]\nhorizon = "0.505s"',
            "planner.horizon is 0.505 s, which is not a whole number of control steps of 0.01 s",
        ),
        ('[planner]\nhorizon = "soon"', "planner.horizon takes a whole number, not 'soon'"),
        ("planner = 3", "planner takes a name or a table, not 3"),
        ('[planner]\nname = "cemm"', "did you mean 'cem'?"),
        ('[wall]\nplaner = "x"', "unknown key 'planer' in mine.toml: wall; did you mean 'planner'?"),
        ("[wall.planner]\nsampels = 3", "wall.planner.sampels"),
        ('[safety]\nfallbak = "zero"', "did you mean 'fallback'?"),
        ('[safety]\nfallback = "zeroo"', "did you mean 'zero'?"),
        ('[safety]\nhang = "long"', "safety.hang takes a number, not 'long'"),
        ("[safety]\nhang = -1", "hang is -1"),
        ("duration = [1]", "duration takes a time"),
        ("duration = 0.015", "duration is 0.015 s, which is not a whole number of control steps of 0.01 s"),
        ("duration = inf", "above 0 and finite"),
        ('simulator = "mujocoo"', "did you mean 'mujoco'?"),
        ("dynamics = 1", "dynamics takes text, not 1"),
    ],
)
def test_wrong_files(text, said):
    with pytest.raises((ScenarioError, UnknownName)) as caught:
        told(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# How often plans decide, and what holds for a learner ------------------------------------------------------------


def test_times_are_steps_of_the_period():
    plain = told("")
    assert (plain.period, plain.planned is plain.task) == (0.01, True)
    setup = told('period = "40ms"\n[planner]\nhorizon = "0.4s"\nreplan = 3')
    assert (setup.period, setup.planner.horizon, setup.planner.replan) == (0.04, 10, 3)
    assert (setup.planned.robot.dt, setup.task.robot.dt, setup.steps) == (0.04, 0.01, 1000)
    assert told("period = 0.04\n[planner]\nhorizon = 12").planner.horizon == 12  # steps are of the period, too


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_steps_are_rescaled_to_a_learners_period(clock):
    """Numbers of steps, given for one period, become the nearest of another; what is no such number stays."""
    text = 'period = "20ms"\n[planner]\nhorizon = 25\nreplan = 3\nsamples = 21\nknots = 2\n[wall.planner]\nreplan = 8\n'
    setup = told(text + '[learner.pets]\nperiod = "40ms"\n', learner="pets", clock=clock)
    assert (setup.period, setup.planner.horizon, setup.planner.samples) == (0.04, 12, 21)  # 12.5, to the even one
    assert setup.planner.replan == (4 if clock == "wall" else 2)
    assert told(text + '[learner.pets]\nperiod = "200ms"\n', learner="pets", clock=clock).planner.replan == 1
    # Without the learner nothing of this applies.
    alone = told(text + '[learner.pets]\nperiod = "40ms"\n', clock=clock)
    assert (alone.period, alone.planner.horizon) == (0.02, 25)


def test_a_learners_own_planner_settings():
    text = '[planner]\nhorizon = 40\nsamples = 9\nelites = 0.3\n[learner.pets]\nperiod = "40ms"\n'
    own = '[learner.pets.planner]\nhorizon = "0.8s"\n'
    setup = told(text + own, learner="pets")
    assert (setup.planner_name, setup.planner.horizon, setup.planner.samples) == ("cem", 20, 9)
    setup = told(text + own + 'name = "mppi"\n', learner="pets")
    assert (setup.planner_name, setup.planner.horizon, setup.planner.samples) == ("mppi", 20, 9)
    # What is asked for comes last, in steps of the learner's period.
    setup = told(text + own, learner="pets", planner="mppi", overrides={"horizon": "0.6s", "samples": "5"})
    assert (setup.planner_name, setup.planner.horizon, setup.planner.samples) == ("mppi", 15, 5)


def test_settings_within_settings():
    text = "[learner.pets]\nparticles = 6\n[learner.pets.network]\nhidden = [8, 9]\nmembers = 4\nelites = 2\n"
    learner = told(text, learner="pets").learner
    assert (learner.particles, learner.network.hidden, learner.network.members) == (6, (8, 9), 4)
    assert learner.network.batch == type(learner.network)().batch
    over = {"network.elites": "3", "network.activation": "tanh", "untold": '["cart"]', "nominal": "casadi"}
    learner = told(text, learner="pets", learner_overrides=over).learner
    assert (learner.network.elites, learner.network.members, learner.network.activation) == (3, 4, "tanh")
    assert (learner.untold, learner.nominal) == (("cart",), "casadi")
    assert told(text).learner is None


def test_a_learners_configuration_reads_back():
    text = 'period = "20ms"\n[learner.pets]\nperiod = "40ms"\nnetwork = {hidden = [8]}\nuntold = ["cart"]\n'
    setup = told(text + '[learner.pets.planner]\nhorizon = "0.8s"\nknots = 4\n', learner="pets")
    again = resolve(parse(setup.toml(), "x", "x.toml"), learner="pets")
    assert (again.learner, again.planner, again.period) == (setup.learner, setup.planner, 0.04)
    assert again.toml() == setup.toml()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('period = "15ms"', "period is 0.015 s, which is not a whole number of control steps of 0.01 s"),
        ("period = 0", "period is 0 s; it must be above 0 and finite"),
        ("period = -0.04", "above 0 and finite"),
        ("period = nan", "above 0 and finite"),
        ('period = "often"', "mine.toml: period takes a time, such as 0.04 or \"40ms\", not 'often'"),
        ("period = true", "mine.toml: period takes a time"),
        ("learner = 3", "mine.toml: learner takes a table of learners' settings by name, not 3"),
        ("[learner]\npets = 3", "mine.toml: learner.pets takes a table, not 3"),
        ('[learner.pets]\nperiod = "x"', "mine.toml: learner.pets.period takes a time"),
        ('[learner.pets]\nplanner = "mppi"', "mine.toml: learner.pets.planner takes a table, not 'mppi'"),
        ("[learner.pets]\nplanner.sampels = 3", "mine.toml: learner.pets.planner.sampels'; did you mean 'samples'?"),
        ('[learner.pets]\nplanner.name = "cemm"', "did you mean 'cem'?"),
        (
            '[learner.pets]\nperiod = "30ms"\nplanner.horizon = "0.8s"',
            "mine.toml: learner.pets.planner.horizon is 0.8 s, which is not a whole number of control steps of 0.03 s",
        ),
        (
            "[learner.pets]\nparticls = 2",
            "unknown setting 'mine.toml: learner.pets.particls'; did you mean 'particles'?",
        ),
        ("[learner.pets]\nnetwork = 3", "mine.toml: learner.pets.network takes a table, not 3"),
        ("[learner.pets.network]\nhiden = [3]", "learner.pets.network.hiden'; did you mean 'hidden'?"),
        ("[learner.pets.network]\nhidden = 3", "network.hidden takes a list of whole numbers, not 3"),
        ("[learner.pets.network]\nhidden = [8.5]", "network.hidden takes a list of whole numbers, not [8.5]"),
        ('[learner.pets.network]\nhidden = ["a"]', "network.hidden takes a list of whole numbers, not ['a']"),
        ("[learner.pets.network]\nhidden = [0]", "network: hidden layers of (0,) units"),
        ("[learner.pets.network]\nmembers = 0", "learner pets.network: members is 0, not positive"),
        ("[learner.pets]\nuntold = [3]", "mine.toml: learner.pets.untold takes a list of texts, not [3]"),
        ("[learner.pets]\nparticles = 7", "learner pets: 7 particles are not a multiple of the 5 elites"),
    ],
)
def test_wrong_settings_of_learners(text, said):
    with pytest.raises((ScenarioError, UnknownName)) as caught:
        told(text, learner="pets")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"network": "8"}, "--learner.network takes settings of its own: members, elites, hidden"),
        ({"network.hiden": "[8]"}, "unknown setting '--learner.network.hiden'; did you mean 'hidden'?"),
        ({"network.": "8"}, "unknown setting '--learner.network.'"),
        ({"network.hidden": "8"}, "--learner.network.hidden takes a list of whole numbers, not 8"),
        ({"network.hidden.x": "8"}, "unknown setting '--learner.network.hidden.x'"),
        ({"particles.x": "8"}, "unknown setting '--learner.particles.x'; did you mean 'particles'?"),
        ({"period": "40ms"}, "unknown setting '--learner.period'"),
    ],
)
def test_wrong_settings_on_the_command_line(given, said):
    with pytest.raises(ScenarioError) as caught:
        told("", learner="pets", learner_overrides=given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_can_not_be_read(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match="not text in UTF-8"):
        find(str(tmp_path / "binary.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ScenarioError, match="can not read"):
        find(str(tmp_path / "folder.toml"))
    with pytest.raises(ScenarioError, match="key 'task' is missing; known tasks: "):
        parse('planner = "cem"', "x", "x.toml")
    with pytest.raises(UnknownName, match="did you mean 'cartpole-swingup'"):
        resolve(parse('task = "cartpole-swingupp"', "x", "x.toml"))


def test_a_spline_keeps_no_more_knots_than_a_longer_period_leaves_steps():
    text = '[planner]\nhorizon = 20\nknots = 10\n[learner.pets]\nperiod = "40ms"\n'
    setup = told(text, learner="pets")
    assert (setup.planner.horizon, setup.planner.knots) == (5, 5)


def test_settings_of_a_learner_that_is_not_there_are_named_when_one_trains():
    with pytest.raises(ScenarioError, match=r"unknown key 'pts' in mine.* did you mean 'pets'"):
        told("[learner.pts]\nparticles = 10\n", learner="pets")
    told("[learner.pts]\nparticles = 10\n")
