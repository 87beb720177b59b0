"""Reading a command's arguments; whatever does not fit them is one line that says what would."""

import contextlib
import io
import itertools
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import tyro


class Wrong(ValueError):
    """What was asked for is wrong; the message is one line."""


def unknown(kind: str, name: str, known: Any) -> ValueError:
    """The error that `name` is no `kind`, with what is known and the nearest of it."""
    from ..robots.plugins import UnknownName

    return UnknownName(kind, name, known)


def parse(kind: type, arguments: list[str], missing: Callable[[], str]) -> Any:
    """`arguments` as a `kind`, or None where help was asked for, and printed.

    Args:
        kind: a dataclass whose fields are the command's options, and whose name is the command's.
        arguments: of the command line, the command itself not among them.
        missing: says what the command takes, where something that it needs is not there.

    Raises:
        ValueError: they do not fit.
    """
    hints = get_type_hints(kind, include_extras=True)
    positional = {name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())}
    flags = ["-h", "--help", *(f"--{name}" for name in hints if name not in positional)]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if re.match(r"--?[a-zA-Z]", flag) and flag not in flags:
            raise unknown("option", flag, flags)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind, args=arguments, prog=f"trimtab {kind.__name__.lower()}", config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as leaving:
        if not leaving.code:
            return None
    # tyro draws a box, or rules only where the terminal knows no boxes: title, what is wrong, and more between rules.
    _, wrong, *_ = re.split("[─-]{3,}", complaint.getvalue())
    said = " ".join(re.sub("[╭╮│╰╯]", " ", wrong).split())
    if said.startswith("Missing from"):
        raise Wrong(missing())
    if found := re.match(r"Error parsing (--\w+)", said):
        from .settings import describe

        flag = found[1]
        given = [a.partition("=")[2] for a in arguments if a.startswith(f"{flag}=")]
        given += [value for a, value in itertools.pairwise(arguments) if a == flag]
        raise Wrong(f"{flag} takes {describe(get_type_hints(kind)[flag[2:]])}, not {given[-1]!r}")
    raise Wrong(said.replace("Unrecognized options:", "unexpected:"))


def a_scenario() -> str:
    """What a SCENARIO may be."""
    from .scenario import names

    return f"a SCENARIO: one of {', '.join(names())}, a .toml file or a task"


def settings(arguments: list[str], of: str) -> tuple[list[str], dict[str, str]]:
    """Takes `--OF.FIELD VALUE` and `--OF.FIELD=VALUE` out of `arguments`: the rest, and text by field.

    Raises:
        Wrong: a field without a value.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    queue = iter(arguments)
    for argument in queue:
        setting = re.fullmatch(rf"--{of}\.([^=]*)(=(.*))?", argument, re.DOTALL)
        if setting is None:
            rest.append(argument)
            continue
        value = setting[3] if setting[2] else next(queue, None)
        if value is None:
            raise Wrong(f"{argument} takes a value")
        found[setting[1].replace("-", "_")] = value
    return rest, found


def check_seed(seed: int) -> None:
    """Raises `Wrong` where `seed` is none."""
    if not 0 <= seed < 2**32:
        raise Wrong(f"--seed is {seed}; it must be at least 0 and below 2^32")
