"""The graph of stages: who reads whose artifact. Which options name a stage is read off their types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from align.config.base import Input, StageOptions
from align.config.hints import did_you_mean
from align.config.refuse import Finding
from align.config.schema import Recipe
from align.config.stages import OUTPUTS

BASE = "base"
NAME = re.compile(r"[a-z][a-z0-9_]*")


def inputs_of(options: StageOptions) -> dict[str, list[str]]:
    """Option -> names of the stages that it reads, `base` left out; options that read none are left out.

    An option inside a named component stands under its path, such as `reward.helpful.model`.

    Example:
        >>> from align.config.stages import DpoOptions
        >>> inputs_of(DpoOptions(kind="dpo", model="sft", data="pairs"))
        {'model': ['sft']}
    """
    named: dict[str, list[str]] = {}
    for field, _, name in references(options):
        if name != BASE:
            named.setdefault(field, []).append(name)
    return named


def input_options(kind: type[BaseModel]) -> dict[str, Input]:
    """Options of a kind of stage that name stages, and what each wants of them."""
    marked = ((name, _marker(info)) for name, info in kind.model_fields.items())
    return {name: marker for name, marker in marked if marker is not None}


def references(options: BaseModel, above: str = "") -> Iterator[tuple[str, str, str]]:
    """(option, kind of artifact wanted, name of the stage) for each input, in components and data too."""
    marked = input_options(type(options))
    for field in type(options).model_fields:
        value = getattr(options, field)
        if isinstance(value, BaseModel):
            yield from references(value, f"{above}{field}.")
        named = (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        )
        for name, part in [(name, part) for name, part in named if isinstance(part, BaseModel)]:
            yield from references(part, f"{above}{field}.{name}.")
        if field in marked and value is not None and not isinstance(value, dict):
            for name in value if isinstance(value, list) else [value]:
                yield f"{above}{field}", marked[field].kind, name


def order(recipe: Recipe) -> list[str]:
    """Names of all stages, each after its inputs, otherwise as the recipe has them.

    Raises:
        ValueError: The stages go in a circle, which `check_graph` would have found.
    """
    done: list[str] = []
    waiting = list(recipe.stages)
    while waiting:
        ready = [name for name in waiting if all(needed in done for needed in _needs(recipe.stages[name]))]
        if not ready:
            raise ValueError(f"stages go in a circle: {', '.join(waiting)}")
        done.append(ready[0])
        waiting.remove(ready[0])
    return done


def check_graph(stages: Mapping[str, StageOptions], kinds: Mapping[str, str]) -> list[Finding]:
    """Names, missing inputs, inputs of the wrong kind, and circles.

    Args:
        stages: The stages whose options are right.
        kinds: Name -> kind of every stage, right or wrong.
    """
    findings = [finding for name in kinds for finding in _check_name(name)]
    for name, options in stages.items():
        for field, wanted, other in references(options):
            findings += _check_input(f"stages.{name}.{field}", name, kinds, wanted, other)
    return findings + _check_circles(stages)


def _marker(info: FieldInfo) -> Input | None:
    """The `Input` in a field's annotation: `PolicyInput`, `list[PolicyInput]`, `PolicyInput | None`."""
    waiting: list[Any] = [*info.metadata, info.annotation]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Input):
            return part
        waiting += [*get_args(part), *getattr(part, "__metadata__", ())]
    return None


def _needs(options: StageOptions) -> set[str]:
    return {name for names in inputs_of(options).values() for name in names}


def _check_name(name: str) -> list[Finding]:
    if name == BASE:
        return [
            Finding(f"stages.{name}", "'base' is the name of the base model", "give the stage another name")
        ]
    if not NAME.fullmatch(name):
        return [
            Finding(f"stages.{name}", f"{name!r} cannot name a stage", "use a-z, 0-9 and _, a letter first")
        ]
    return []


def _check_input(key: str, name: str, kinds: Mapping[str, str], wanted: str, other: str) -> list[Finding]:
    if other == BASE:
        if wanted == "policy":
            return []
        return [
            Finding(
                key,
                f"stage {name!r} wants a {wanted}, and 'base' is a policy",
                _missing_edge(name, kinds, wanted),
            )
        ]
    if other not in kinds:
        hint = did_you_mean(other, [*kinds, BASE]) or _missing_edge(name, kinds, wanted)
        return [Finding(key, f"no stage is called {other!r}", hint)]
    made = OUTPUTS.get(kinds[other])
    if made is None or made == wanted:
        return []
    makes = "none" if made == "evaluation" else f"a {made}"
    reader, maker = f"{name!r} (kind {kinds[name]})", f"{other!r} (kind {kinds[other]})"
    what = f"stage {reader} wants a {wanted}, and stage {maker} makes {makes}"
    return [Finding(key, what, _missing_edge(name, kinds, wanted))]


def _missing_edge(name: str, kinds: Mapping[str, str], wanted: str) -> str:
    """What could be put there: the stages that make what is wanted, or the stage to add, drawn as an edge."""
    makers = [stage for stage, kind in kinds.items() if OUTPUTS.get(kind) == wanted and stage != name]
    if makers:
        return f"choose {', '.join(makers)}"
    if wanted == "policy":
        return "choose base"
    kind = "sample" if wanted == "dataset" else wanted
    return f"add the stage: {wanted} (kind: {kind}) -> {name}"


def _check_circles(stages: Mapping[str, StageOptions]) -> list[Finding]:
    """One finding for each circle, drawn along its edges."""
    needs = {
        name: [other for other in sorted(_needs(options)) if other in stages]
        for name, options in stages.items()
    }
    findings: list[Finding] = []
    seen: set[str] = set()
    for start in stages:
        path = _circle_from(start, needs)
        if path and not seen & set(path):
            seen |= set(path)
            drawn = " -> ".join(reversed(path))
            findings.append(
                Finding(
                    f"stages.{path[0]}", f"the stages go in a circle: {drawn}", "let one of them read base"
                )
            )
    return findings


def _circle_from(start: str, needs: Mapping[str, list[str]]) -> list[str] | None:
    """A path from `start` along inputs back to `start`, or None."""
    waiting = [[start]]
    reached: set[str] = set()
    while waiting:
        path = waiting.pop()
        for other in needs[path[-1]]:
            if other == start:
                return [*path, start]
            if other not in reached:
                reached.add(other)
                waiting.append([*path, other])
    return None
