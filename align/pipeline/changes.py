"""Why a stage runs again: the ingredients that differ from what was made before, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from align.pipeline.ingredients import CODE, DATA, INPUT

SHOWN = 3
KINDS = ("kind", "adapter.kind")
_ABSENT = object()


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of the ingredients that differ: kinds first, then options, data, and code.

    Where a kind differs, the options that only one of the two kinds has follow from it and are left out.
    """
    names = {name for name in {*old, *new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)}
    for kind in names.intersection(KINDS):
        names -= {name for name in names if _group(name) == _group(kind) and (name in old) != (name in new)}
    return sorted(names, key=lambda name: (name not in KINDS, _rank(name), name))


def _group(name: str) -> str:
    """What a name is an option of: the adapter, the stage, or neither."""
    if name.startswith((DATA, CODE, INPUT)):
        return ""
    return "adapter" if name.startswith("adapter.") else "stage"


def own(names: list[str]) -> list[str]:
    """Those that are the stage's own: not what it inherits from its inputs."""
    return [name for name in names if not name.startswith(INPUT)]


def describe(stage: str, old: Mapping[str, Any], new: Mapping[str, Any], names: list[str]) -> str:
    """The first three differences with both values, and how many more there are.

    Args:
        stage: Name of the stage.
        old: Ingredients of what was made before.
        new: Ingredients now.
        names: The ingredients to speak of.

    Example:
        >>> describe("ppo", {"kl_coef": 0.05}, {"kl_coef": 0.1}, ["kl_coef"])
        'stages.ppo.kl_coef 0.05 -> 0.1'
    """
    told = [_sentence(stage, name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names[:SHOWN]]
    more = len(names) - SHOWN
    return ", ".join([*told, *([f"+{more}"] if more > 0 else [])])


def _rank(name: str) -> int:
    for place, prefix in enumerate((DATA, CODE, INPUT), start=1):
        if name.startswith(prefix):
            return place
    return 0


def _sentence(stage: str, name: str, old: Any, new: Any) -> str:
    if name.startswith(CODE):
        path = name.removeprefix(CODE).replace(".", "/")
        return f"code of {path}"
    if name.startswith(INPUT):
        return f"input stages.{stage}.{name.removeprefix(INPUT)}"
    if name.startswith(DATA):
        return f"data of stages.{stage}.{name.removeprefix(DATA)} {_shown(old)} -> {_shown(new)}"
    return f"{_key_path(stage, name)} {_shown(old)} -> {_shown(new)}"


def _key_path(stage: str, name: str) -> str:
    """The key as it is typed on the command line."""
    elsewhere = {"base": "model", "template": "model.template", "dtype": "hardware.dtype"}
    if name in elsewhere:
        return elsewhere[name]
    return name if name == "seed" or name.startswith("adapter.") else f"stages.{stage}.{name}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "(none)"
    return repr(value) if isinstance(value, str) and not value else str(value)
