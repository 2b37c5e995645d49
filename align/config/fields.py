"""What the pydantic types say about a key: its type, range, default and meaning."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from align.config.rewards import AnyReward, Component, Rewards
from align.config.schema import AnyAdapter, AnyModel, Hardware, Recipe
from align.config.stages import KINDS

REQUIRED = "???"  # OmegaConf's and Hydra's word for a value that must still be given


def _by_kind(union: Any) -> dict[str, type[BaseModel]]:
    """Kind -> type of a tagged union."""
    found: dict[str, type[BaseModel]] = {}
    for option in get_args(get_args(union)[0]):
        for name in get_args(option.model_fields["kind"].annotation):
            found[name] = option
    return found


MODELS = _by_kind(AnyModel)
ADAPTERS = _by_kind(AnyAdapter)
REWARDS = _by_kind(AnyReward)
STAGES: dict[str, type[BaseModel]] = dict(KINDS)
TAGGED: dict[str, dict[str, type[BaseModel]]] = {"model": MODELS, "adapter": ADAPTERS}
MOST_NAMES = 4  # of a choice, before the table of keys gets too wide
DATA = "a card, a file, {card: ..., path: ...} or a list of these"


def defaults(options: type[BaseModel], *, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """Every key with its default as plain data; keys without one are `???`."""
    plain: dict[str, Any] = {}
    for name, field in options.model_fields.items():
        if name in leave_out:
            continue
        value = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
        plain[name] = value.model_dump() if isinstance(value, BaseModel) else value
    return plain


def filled(given: dict[str, Any], options: type[BaseModel]) -> dict[str, Any]:
    """`given` with the defaults of `options` beneath; keys in the order of `options`, unknown keys last."""
    full: dict[str, Any] = {}
    base = defaults(options)
    for name in (*base, *(name for name in given if name not in base)):
        value = given.get(name, base.get(name))
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            value = {**base[name], **value}
        full[name] = value
    return full


@functools.cache
def json_schema(options: type[BaseModel]) -> dict[str, Any]:
    """Pydantic's JSON Schema of a type."""
    return options.model_json_schema()


def find_property(options: type[BaseModel], path: Sequence[str]) -> dict[str, Any] | None:
    """JSON Schema of the key at `path` within `options`, or None where there is none."""
    root = json_schema(options)
    found: dict[str, Any] = root
    for part in path:
        for branch in branches(found, root):
            if part in branch.get("properties", {}):
                found = branch["properties"][part]
                break
            if "items" in branch and part.isdigit():
                found = branch["items"]
                break
            if _of_any_key(branch) is not None:
                found = _of_any_key(branch) or {}
                break
        else:
            return None
    return found


def _of_any_key(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of the values of a mapping whose keys are names."""
    candidates = [schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()]
    return next((one for one in candidates if isinstance(one, dict)), None)


def branches(schema: dict[str, Any], root: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, with references looked up."""
    if "$ref" in schema:
        return [root["$defs"][schema["$ref"].rpartition("/")[2]]]
    alternatives = schema.get("anyOf", schema.get("oneOf"))
    if alternatives is not None:
        return [branch for option in alternatives for branch in branches(option, root)]
    return [schema]


@dataclass(frozen=True)
class Expected:
    """What a key takes, in words.

    Attributes:
        noun: `a number`, `one of constant, linear, cosine`.
        limits: `above 0 and below 1`, or empty; for data, the ways to name it.
        optional: True where null is allowed.
        choices: All values that are allowed, where they can be listed.
    """

    noun: str
    limits: str = ""
    optional: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.limits == DATA:
            return DATA
        return f"{self.noun} {self.limits}" if self.limits else self.noun


NOUNS = {
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}


def expected(schema: dict[str, Any], most: int | None = None) -> Expected:
    """Words for a property's JSON Schema; of many choices the first `most`, or all of them."""
    options = schema.get("anyOf", [schema])
    if any(option.get("$ref", "").endswith("/DataRef") for option in options):
        return Expected("the name of data", DATA, {"type": "null"} in options)
    real = [option for option in options if option.get("type") != "null"]
    optional = len(real) < len(options)
    if all(_choices(option) for option in real):
        names = [name for option in real for name in _choices(option)]
        return Expected(_one_of(names, most), "", optional, tuple(names))
    if len(real) == 1:
        return Expected(_noun(real[0], most), _limits(real[0]), optional)
    nouns = [f"{_noun(option, most)} {_limits(option)}".strip() for option in real]
    return Expected(" or ".join(nouns), "", optional)


def _choices(schema: dict[str, Any]) -> list[str]:
    """The values that a schema allows, where it lists them."""
    named = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [str(value) for value in named]


def _one_of(names: Sequence[str], most: int | None) -> str:
    if len(names) == 1:
        return names[0]
    shown = names if most is None or len(names) <= most else [*names[:most], "..."]
    return "one of " + ", ".join(shown)


def _noun(schema: dict[str, Any], most: int | None) -> str:
    if _choices(schema):
        return _one_of(_choices(schema), most)
    if schema.get("type") == "array" and schema.get("items", {}).get("type") == "string":
        return "a list of texts"
    return NOUNS.get(schema.get("type", "object"), "a mapping")


def _limits(schema: dict[str, Any]) -> str:
    words = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
    }
    parts = [text.format(_number(schema[name])) for name, text in words.items() if name in schema]
    if "minItems" in schema:
        parts.append(f"with at least {schema['minItems']}")
    return " and ".join(parts)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


@dataclass(frozen=True)
class Row:
    """One line of the table of keys."""

    key: str
    type: str
    limits: str
    default: str
    text: str


def rows(options: type[BaseModel], prefix: str) -> list[Row]:
    """A row for each key of `options`, nested ones with their whole path."""
    found: list[Row] = []
    for name, field in options.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += rows(annotation, f"{prefix}{name}.")
            continue
        if options is Recipe and get_origin(annotation) is not None and get_origin(annotation) is not Literal:
            continue  # model, adapter and stages have rows of their own
        schema = find_property(options, [name]) or {}
        takes = expected(schema, MOST_NAMES)
        kind = takes.noun.removeprefix("a ").removeprefix("one of ").removeprefix("the ")
        value = field.get_default(call_default_factory=True)
        default = "required" if field.is_required() else _shown_default(value)
        limits = "" if takes.limits == DATA else takes.limits
        limits += " or null" if limits and takes.optional else ""
        found.append(Row(f"{prefix}{name}", kind, limits, default, field.description or ""))
        if annotation in (Rewards, Rewards | None):
            found += component_rows(f"{prefix}{name}.NAME.")
    return found


def component_rows(prefix: str) -> list[Row]:
    """A row for each key of the components of a reward, the kinds that take it before its meaning."""
    text = f"one of {', '.join(REWARDS)}"
    found = [Row(f"{prefix}kind", "text", "", "required", text)]
    found += [row for row in rows(Component, prefix) if row.key != f"{prefix}kind"]
    shared = {f"{prefix}{name}" for name in Component.model_fields}
    return found + [
        replace(row, text=f"[{kind}] {row.text}")
        for kind, options in REWARDS.items()
        for row in rows(options, prefix)
        if row.key not in shared
    ]


def _shown_default(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) and (" " in value or not value) else str(value)


TOP_LEVEL = [name for name in Recipe.model_fields if name not in ("model", "adapter", "stages", "hardware")]
HARDWARE: type[BaseModel] = Hardware
