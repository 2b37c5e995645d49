"""The schemas that editors use: current, and of the same opinion as the checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from align.config.json_schema import schemas, text_of
from align.config.source import RECIPES
from align.config.yaml_reader import read

SHIPPED = sorted(path for path in RECIPES.glob("*/*.yaml") if path.parent.name != "hydra")


def check(schema: str, data: Any) -> list[str]:
    validator = jsonschema.Draft7Validator(json.loads((RECIPES / schema).read_text()))
    return sorted(
        ".".join(str(part) for part in error.absolute_path) for error in validator.iter_errors(data)
    )


def test_the_files_are_current() -> None:
    for name, schema in schemas().items():
        jsonschema.Draft7Validator.check_schema(schema)
        message = "write it anew: python -m align.config.json_schema"
        assert (RECIPES / name).read_text() == text_of(schema), message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_files_point_to_a_schema_and_obey_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=../")
    schema = first.rpartition("/")[2]
    assert (RECIPES / schema).is_file()
    assert check(schema, read(path).data) == []


def test_it_refuses_what_the_checks_refuse() -> None:
    sft = {"kind": "sft", "data": "talks"}
    assert check("schema.json", {"stages": {"sft": sft}}) == []
    assert check("schema.json", {"stages": {"sft": {**sft, "learning_rate": 1}}}) == ["stages.sft"]
    assert check("schema.json", {"stages": {"sft": {**sft, "lr": -1}}}) == ["stages.sft.lr"]
    assert check("schema.json", {"stages": {"sft": {**sft, "kind": "sftt"}}}) == ["stages.sft.kind"]
    assert check("schema.json", {"stages": {"sft": {"kind": "sft"}}}) == ["stages.sft"]
    assert check("schema.json", {"stages": {"../a": sft}}) == ["stages"]
    assert check("schema.json", {"foo": 1}) == [""]
    assert check("schema_model.json", {"kind": "hub", "id": "a/b", "revision": "main"}) == ["revision"]


def test_it_allows_a_part_and_a_copy_of_another_key() -> None:
    assert check("schema.json", {"defaults": ["rlhf"], "stages": {"ppo": {"lr": 0.1}}}) == []
    copied = {"kind": "sft", "data": "x", "lr": "${stages.a.lr}"}
    assert check("schema.json", {"stages": {"sft": copied}}) == []
