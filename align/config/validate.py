"""From a composed mapping to a `Recipe`, with everything that is wrong with it in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from align.config import fields
from align.config.base import StageOptions
from align.config.contradictions import contradictions
from align.config.graph import check_graph
from align.config.hints import Raw, did_you_mean, findings_of, show
from align.config.refuse import Finding
from align.config.schema import Recipe


@dataclass
class Checked:
    """What came of a check: the recipe where nothing was found, else the findings."""

    recipe: Recipe | None
    findings: list[Finding] = field(default_factory=list)


def validate(plain: Mapping[str, Any], raw: Raw = lambda key: None) -> Checked:
    """Check a composed recipe.

    Args:
        plain: The mapping, with interpolations looked up.
        raw: Key path -> how the scalar is written in its file.
    """
    findings: list[Finding] = []
    parts = {
        name: _one_of(plain.get(name), kinds, name, findings, raw) for name, kinds in fields.TAGGED.items()
    }
    stages = _stages(plain.get("stages"), findings, raw)
    findings += _top_level(plain, raw)
    kinds = _kinds(plain.get("stages"))
    findings += check_graph(stages, kinds)
    hardware = plain.get("hardware")
    dtype = hardware.get("dtype") if isinstance(hardware, dict) else None
    findings += contradictions(parts["model"], parts["adapter"], stages, dtype)
    if findings:
        return Checked(None, findings)
    return Checked(Recipe.model_validate(plain))


def _one_of(
    value: Any, kinds: dict[str, type[BaseModel]], key: str, findings: list[Finding], raw: Raw
) -> BaseModel | None:
    """Check a mapping whose `kind` says what else it holds."""
    if not isinstance(value, dict):
        findings.append(
            Finding(
                key, "is missing" if value is None else f"{show(value)} is not a mapping", "give kind: ..."
            )
        )
        return None
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        choices = f"choose {', '.join(kinds)}"
        if "kind" not in value:
            findings.append(Finding(f"{key}.kind", "is missing", choices))
        else:
            hint = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
            findings.append(Finding(f"{key}.kind", f"{show(kind)} is not a kind", hint or choices))
        return None
    try:
        return kinds[kind].model_validate(value)
    except ValidationError as error:
        findings += findings_of(error, kinds[kind], value, key, raw)
        return None


def _stages(value: Any, findings: list[Finding], raw: Raw) -> dict[str, StageOptions]:
    """The stages that are right; findings for the others."""
    if not isinstance(value, dict) or not value:
        if value is not None:
            findings.append(Finding("stages", "holds no stages", "give name: {kind: ...}"))
        return {}
    named = [str(name) for name, given in value.items() if isinstance(given, dict) and "kind" in given]
    right: dict[str, StageOptions] = {}
    for name, given in value.items():
        key = f"stages.{name}"
        if isinstance(given, dict) and "kind" not in given:
            fix = (
                did_you_mean(str(name), named, "stages.")
                or f"give {key}.kind, or choose one of {', '.join(named)}"
            )
            findings.append(
                Finding(key, f"no stage is called {name!r}, and there is no kind to make it one", fix)
            )
            continue
        options = _one_of(given, fields.STAGES, key, findings, raw)
        if isinstance(options, StageOptions):
            right[str(name)] = options
    return right


def _kinds(stages: Any) -> dict[str, str]:
    """Name -> kind of all stages, right or wrong."""
    if not isinstance(stages, dict):
        return {}
    return {
        str(name): str(given.get("kind")) if isinstance(given, dict) else "" for name, given in stages.items()
    }


def _top_level(plain: Mapping[str, Any], raw: Raw) -> list[Finding]:
    """Findings outside of model, adapter and stages."""
    try:
        Recipe.model_validate(plain)
    except ValidationError as error:
        found = findings_of(error, Recipe, plain, "", raw)
        return [finding for finding in found if finding.key.split(".")[0] not in _own_checks(plain)]
    return []


def _own_checks(plain: Mapping[str, Any]) -> set[str]:
    return set(fields.TAGGED) | ({"stages"} if plain.get("stages") is not None else set())
