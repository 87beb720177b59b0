"""What can be plugged in, by name: the entry points of every installed package, ours among them.

Groups: `trimtab.robots`, `trimtab.simulators`, `trimtab.dynamics`, `trimtab.planners`, `trimtab.learners`,
`trimtab.guides`.
Only the plugin that is asked for is imported.
"""

import difflib
import functools
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any


class Notice(RuntimeWarning):
    """Something that a person should know and that ends nothing: a checkpoint or a plugin that can not be used."""


class UnknownName(ValueError):
    """A name that is not known; the message lists the known ones, and the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"unknown {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}")


class PluginError(RuntimeError):
    """A plugin is there but does not import; the message holds its own error."""


@functools.cache
def _table(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"trimtab.{group}")}


def names(group: str) -> list[str]:
    """Names in `group` (`robots`, `simulators`, `dynamics`, `planners`, `learners`, `guides`), nothing imported."""
    return list(_table(group))


def origin(group: str, name: str) -> str:
    """Where the plugin `name` of `group` comes from, `package.module:object`; nothing imported."""
    return _table(group)[name].value


def find(group: str, name: str) -> Any:
    """What the plugin `name` of `group` exports.

    Raises:
        UnknownName: there is no such plugin.
        PluginError: it fails to import.
    """
    table = _table(group)
    if name not in table:
        raise UnknownName(group.removesuffix("s"), name, table)
    entry = table[name]
    try:
        return entry.load()
    except Exception as error:
        raise PluginError(
            f"{group.removesuffix('s')} plugin {name!r} ({entry.value}) fails to import: "
            f"{type(error).__name__}: {error}"
        ) from error
