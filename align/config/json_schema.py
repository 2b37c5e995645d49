"""Writes the JSON Schemas by which editors check recipes: `python -m align.config.json_schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from align.config import fields
from align.config.schema import Recipe
from align.config.source import RECIPES

DIALECT = "http://json-schema.org/draft-07/schema#"
ELSEWHERE = {"type": "string", "pattern": r"^(\$\{[^}]*\}|\?\?\?)$"}


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema: recipes, and the files of the groups model, adapter and hardware."""
    found = {
        f"schema_{group}.json": _document(group, _tagged(kinds), kinds)
        for group, kinds in fields.TAGGED.items()
    }
    hardware = {"hardware": fields.HARDWARE}
    found["schema_hardware.json"] = _document("hardware", _reference(fields.HARDWARE), hardware)
    return {"schema.json": _recipe_schema(), **found}


def write(folder: Path = RECIPES) -> None:
    """Write all schemas into `folder`."""
    for name, schema in schemas().items():
        (folder / name).write_text(text_of(schema))


def text_of(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _recipe_schema() -> dict[str, Any]:
    """A recipe file holds any part of a recipe, and Hydra's defaults list."""
    parts = {
        name: schema
        for name, schema in fields.json_schema(Recipe)["properties"].items()
        if name in fields.TOP_LEVEL
    }
    properties: dict[str, Any] = {
        "defaults": {
            "type": "array",
            "description": "Hydra's defaults list",
            "items": {"type": ["string", "object"]},
        },
        **{name: _or_elsewhere(schema) for name, schema in parts.items()},
        "hardware": _reference(fields.HARDWARE),
    }
    properties |= {group: _tagged(kinds) for group, kinds in fields.TAGGED.items()}
    properties["stages"] = {
        "type": "object",
        "description": "name -> stage; each names its inputs",
        "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
        "additionalProperties": _tagged(fields.STAGES),
    }
    everything = {"hardware": fields.HARDWARE, **fields.STAGES, **fields.MODELS, **fields.ADAPTERS}
    body = {"type": "object", "properties": properties, "additionalProperties": False}
    return _document("recipe", body, everything)


def _document(title: str, body: dict[str, Any], types: dict[str, type[BaseModel]]) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    for options in types.values():
        schema = dict(fields.json_schema(options))
        definitions |= {name: _open(inner) for name, inner in schema.pop("$defs", {}).items()}
        definitions[options.__name__] = _open(schema)
    return {"$schema": DIALECT, "title": title, **body, "$defs": dict(sorted(definitions.items()))}


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type whose values may also be `${another.key}`, or `???`: given elsewhere."""
    properties = {name: _or_elsewhere(inner) for name, inner in schema.get("properties", {}).items()}
    return {**schema, "properties": properties}


def _or_elsewhere(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get("type") == "string" and not {"pattern", "enum", "const"} & set(schema):
        return schema
    if "const" in schema or "enum" in schema:
        return schema
    about: dict[str, Any] = {name: schema[name] for name in ("description", "default") if name in schema}
    inner = {name: value for name, value in schema.items() if name not in about and name != "title"}
    options = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    return {**about, "anyOf": [*options, ELSEWHERE]}


def _reference(options: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{options.__name__}"}


def _tagged(kinds: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """A mapping whose `kind` says what else it holds; without one it changes what stands elsewhere."""
    return {
        "type": "object",
        "properties": {"kind": {"enum": list(kinds)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": _reference(options),
            }
            for kind, options in kinds.items()
        ],
    }


if __name__ == "__main__":
    write()
