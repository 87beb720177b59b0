"""The command line: `trimtab list`, `run` and `view` are here, `trimtab train` and `eval` in `train.py`.

Exit code 0: done. 1: the run failed. 2: what was asked for is wrong; then stderr has one line that says what, lists the
valid choices and the nearest.
"""

import contextlib
import itertools
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from .. import __version__
from . import arguments as asked
from . import terminal, train
from .terminal import DONE, FAILED, WRONG

HELP = f"""trimtab {__version__}: every planner on every model for every task, in one loop.

usage: trimtab list [scenarios|tasks|planners|dynamics|simulators|learners] [--json]
       trimtab run SCENARIO [options]       one episode; trimtab run --help lists the options
       trimtab train SCENARIO --learner L   learn from episodes; trimtab train --help lists the options
       trimtab eval DIR [--episodes N]      how good what a trained run has learned is
       trimtab view F.rrd|DIR               replay a recording
       trimtab --version

first: trimtab run cartpole-swingup
"""


@dataclass
class List:
    """List what there is to choose from: scenarios, tasks, planners, dynamics, simulators, learners."""

    kind: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="KIND")] = "all"
    """One of scenarios, tasks, planners, dynamics, simulators, learners."""
    json: bool = False
    """Print one JSON object, names by kind."""


@dataclass
class Run:
    """Run one episode of a scenario, and keep it in runs/DATE-TIME-SCENARIO/.

    Any setting of the planner may follow as --planner.FIELD VALUE, such as --planner.samples 128 or
    --planner.horizon 0.5s. With --controller DIR nothing is planned: what was trained there drives.
    """

    scenario: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SCENARIO")]
    """A shipped scenario, a .toml file, or a task such as dm_control:dog-run; see trimtab list."""
    planner: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Plan by this planner; it keeps those of the scenario's settings that it has too."""
    dynamics: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The model that the planner searches."""
    controller: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Drive with what was trained, instead of a planner: the folder of a run, or of one of its checkpoints."""
    simulator: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The plant."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Of the start state and of the planner."""
    duration: Annotated[float | None, tyro.conf.arg(metavar="SEC")] = None
    """How long, in the plant's time; by default as long as the scenario says."""
    clock: Annotated[str, tyro.conf.arg(metavar="virtual|wall")] = "virtual"
    """virtual: as fast as it goes, the same seed gives the same bits. wall: real time."""
    latency: Annotated[float, tyro.conf.arg(metavar="SEC")] = 0.0
    """Virtual clock: planning time to reckon with, a whole number of control steps."""
    view: Annotated[str, tyro.conf.arg(metavar="auto|native|web|off")] = "off"
    """Watch live in 3D. native: in a window; web: in a browser; auto, or nothing after --view: in a window if there is
    a display."""
    record: Annotated[str | None, tyro.conf.arg(metavar="F|off")] = None
    """Write a .rrd file (for rerun), an .npz file, or another folder instead of runs/...; off: nothing."""
    video: Annotated[str | None, tyro.conf.arg(metavar="F.mp4")] = None
    """Render a video afterwards."""
    json: Annotated[str | None, tyro.conf.arg(metavar="F|-")] = None
    """Write the result as JSON; -: to stdout, and nothing else there."""


@dataclass
class View:
    """Replay a recording: the scene, the planner's candidates, the plots."""

    recording: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="F.rrd|DIR")]
    """A recording, or the folder of a run."""
    view: Annotated[str, tyro.conf.arg(metavar="auto|native|web")] = "auto"
    """native: in a window; web: in a browser; auto: in a window if there is a display, otherwise in a browser."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line `arguments` (by default the program's) and returns the exit code."""
    # Threads of OpenMP that spin while they wait slow everything else down; it reads this once, when NumPy loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    usual = warnings.formatwarning
    warnings.formatwarning = terminal.warning
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has seen enough; at exit Python would flush into the closed pipe once more.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return terminal.say("interrupted", FAILED)
    except Exception as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            traceback.print_exc()
        return terminal.say(*_verdict(error))
    finally:
        warnings.formatwarning = usual


def _verdict(error: Exception) -> tuple[str, int]:
    """What to say about an error, and the exit code."""
    if isinstance(error, ValueError):
        return str(error), WRONG
    with contextlib.suppress(ImportError):  # what does not load, as it may be just that which failed, raised nothing
        from ..robots.plugins import PluginError
        from .outputs import OutputError

        if isinstance(error, PluginError | OutputError):
            return str(error), FAILED
    return f"{type(error).__name__}: {error} (set TRIMTAB_TRACEBACK=1 to see where)", FAILED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return DONE
    if arguments[0] == "--version":
        print(f"trimtab {__version__}")
        return DONE
    command, *rest = arguments
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "run": _run,
        "train": train.train,
        "eval": train.evaluate,
        "view": _view,
    }
    if command not in commands:
        raise asked.unknown("command", command, [*commands, "--help", "--version"])
    return commands[command](rest)


def _list(arguments: list[str]) -> int:
    options = asked.parse(List, arguments, lambda: "trimtab list takes a kind")
    if options is None:
        return DONE
    from ..robots import plugins
    from . import listing

    kinds = listing.KINDS
    if options.kind not in ("all", *kinds):
        raise plugins.UnknownName("kind", options.kind, kinds)
    chosen = kinds if options.kind == "all" else (options.kind,)
    if options.json:
        print(json.dumps({kind: listing.names(kind) for kind in chosen}, indent=2))
    else:
        for kind in chosen:
            terminal.console(sys.stdout).print(listing.table(kind))
    return DONE


def _view(arguments: list[str]) -> int:
    options = asked.parse(View, arguments, lambda: "trimtab view takes a recording, F.rrd, or the folder of a run")
    if options is None:
        return DONE
    from .viewer import replay

    replay.show(options.recording, options.view, terminal.console(sys.stdout).print)
    return DONE


def _run(arguments: list[str]) -> int:
    arguments, overrides = asked.settings(_with_bare_view(arguments), "planner")
    options = asked.parse(Run, arguments, lambda: f"trimtab run takes {asked.a_scenario()}")
    if options is None:
        return DONE
    asked.check_seed(options.seed)
    with terminal.output(options.json) as out, terminal.ended_by_signals():
        result, code = _episode(options, overrides, out)
    if options.json == "-":
        print(json.dumps(result))
    return code


def _episode(options: Run, overrides: dict[str, str], out: Any) -> tuple[dict[str, Any], int]:
    """Runs the episode that `options` ask for, with all that is said going to `out`; its result, and the exit code."""
    from .. import sim
    from ..controllers.interface import Controller
    from ..controllers.loop import run
    from ..controllers.mpc import MPC
    from ..robots.plugins import UnknownName
    from . import report, scenario
    from .outputs import OutputError, Outputs
    from .viewer import windows
    from .viewer.observer import LiveView, Recorder

    if options.clock not in scenario.CLOCKS:
        raise UnknownName("clock", options.clock, scenario.CLOCKS)
    if options.controller is not None:
        _check_alone(options, overrides)
    setup = scenario.resolve(
        scenario.find(options.scenario),
        clock=options.clock,
        planner=options.planner,
        dynamics=options.dynamics,
        simulator=options.simulator,
        duration=options.duration,
        overrides=overrides,
    )
    trained = None
    if options.controller is not None:
        from .trained import Run as TrainedRun

        trained = TrainedRun(options.controller)
        trained.check_robot(setup.task)
    outputs = Outputs.named(setup.scenario, options.record, options.video, options.json)
    mode = windows.check(options.view)
    console = terminal.console(out)
    if options.view == "auto" and mode == "off":
        console.print(f"not viewing: {windows.missing_display()}; --view web shows the run in a browser")
    with contextlib.ExitStack() as closing:
        closing.callback(console.show_cursor)  # which a progress bar that does not come to its end leaves hidden
        with terminal.getting_ready(console, setup.scenario):
            plant = sim.make(setup.simulator, setup.task)
            closing.callback(plant.close)
            controller: Controller
            note = ""
            if trained is not None:
                learner, _, note = trained.restore()
                closing.callback(learner.close)
                controller = learner.controller()
            else:
                dynamics = sim.dynamics(setup.dynamics, setup.planned)
                closing.callback(dynamics.close)
                controller = MPC(setup.planner, dynamics, setup.planned)
        if note:
            console.print(note, soft_wrap=True)
        backend = None
        if options.video is not None:
            from . import video

            backend = video.backend()
        outputs = outputs.prepare()
        closing.callback(outputs.discard)
        window, name = None, f"{setup.scenario}-{options.seed}"
        observers: list[Any] = [report.ProgressBar(console, setup)]
        recorder = Recorder(outputs.drawing, name) if outputs.drawing is not None else None
        if recorder is not None:
            closing.callback(recorder.close)
            observers.append(recorder)
        if mode != "off":
            window = windows.native() if mode == "native" else windows.web()
            view = LiveView(window.url, name, wait=windows.COMES_UP)
            closing.callback(view.close)
            observers.append(view)
            if window.address is not None:
                closing.callback(window.close)
                console.print(f"viewer: {window.address}", soft_wrap=True)
        episode = run(
            plant,
            controller,
            task=setup.task,
            duration=setup.duration,
            clock=options.clock,  # type: ignore[arg-type]
            observers=observers,
            seed=options.seed,
            safety=setup.safety,
            latency=options.latency,
        )
        result = report.result_of(episode, setup, outputs.recording, options.controller)
        lost = ""
        try:
            _keep(outputs, episode, setup, options, result, console, backend)
            if recorder is not None:
                recorder.check()
        except OutputError as error:
            lost = str(error)
        console.print(report.result_table(result, episode))
        if mode != "off" and view.shown < len(episode):
            why = f" ({view.trouble})" if view.trouble else ""
            console.print(f"the viewer did not show {len(episode) - view.shown} of {len(episode)} steps{why}")
        if window is not None and window.address is not None and sys.stdin.isatty() and out.isatty():
            console.print("the viewer's server goes on until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                window.wait()
    if os.environ.get("TRIMTAB_TRACEBACK") and episode.notes:
        print(*episode.notes, sep="\n", file=sys.stderr)
    said = []
    if episode.status in ("failed", "interrupted"):
        reason = episode.reason if episode.status == "interrupted" else f"the run failed: {episode.reason}"
        where = f" (kept so far: {outputs.recording})" if outputs.recording and not lost else ""
        said.append(f"{reason} after {len(episode)} of {setup.steps} steps{where}")
    if lost:
        said.append(lost)
    return result, terminal.say("; ".join(said), FAILED) if said else DONE


def _check_alone(options: Run, overrides: dict[str, str]) -> None:
    """Raises `Wrong` where a planner or its settings are asked for beside a trained controller."""
    given = [f"--{name}" for name in ("planner", "dynamics") if getattr(options, name) is not None]
    given += [f"--planner.{name}" for name in overrides]
    if given:
        raise asked.Wrong(f"with --controller nothing is planned: {', '.join(given)} can not be given with it")


def _keep(outputs: Any, episode: Any, setup: Any, options: Run, result: Any, console: Any, backend: str | None) -> None:
    """Writes all that was asked for, but for what was recorded during the run.

    Raises:
        OutputError: something could not be written.
    """
    command = f"# trimtab {__version__}: trimtab run scenario.toml --seed {options.seed} --clock {options.clock}"
    command += f" --controller {shlex.quote(options.controller)}" if options.controller is not None else ""
    command += f" --latency {options.latency:g}" if options.latency else ""
    outputs.save(episode, f"{command}\n\n{setup.toml()}", result)
    if outputs.video is not None and backend is not None:
        from . import video

        console.print(f"rendering {outputs.video}")
        video.write(outputs.video, episode, setup, backend)


def _with_bare_view(arguments: list[str]) -> list[str]:
    """`arguments` with `--view auto` for a `--view` alone."""
    rest: list[str] = []
    for argument, after in itertools.zip_longest(arguments, arguments[1:], fillvalue="-"):
        rest.append(argument)
        if argument == "--view" and after.startswith("-"):
            rest.append("auto")
    return rest


if __name__ == "__main__":
    sys.exit(main())
