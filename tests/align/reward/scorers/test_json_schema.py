"""Answers that are JSON of a shape."""

from __future__ import annotations

from typing import Any

import pytest
from answered import answered

from align.config.rewards import JsonSchemaReward
from align.errors import DataError
from align.reward.scorers.json_schema import json_schema_scorer, loads, validator_of

SCHEMA = {"type": "object", "required": ["year"], "properties": {"year": {"type": "integer"}}}
SCORER = json_schema_scorer(JsonSchemaReward(kind="json_schema"))


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"year": 1815}', 1.0),
        ('\n```json\n{"year": 1815}\n```\n', 1.0),
        ('{"year": "1815"}', 0.0),
        ("{}", 0.0),
        ('{"year": 1815', 0.0),
        ('It is {"year": 1815}', 0.0),
        ("NaN", 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_scores(text: str, score: float) -> None:
    assert SCORER([answered(text, schema=SCHEMA)]).values.tolist() == [score]


def test_loads_takes_a_fence_off() -> None:
    assert loads("```\n[1, 2]\n```") == [1, 2]


@pytest.mark.parametrize("schema", [{"type": "objekt"}, {"required": "year"}])
def test_what_is_no_schema(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is no JSON Schema"):
        validator_of(schema)


def test_nothing_is_looked_up_elsewhere() -> None:
    schema = {"$ref": "http://127.0.0.1:9/schema.json"}
    with pytest.raises(
        DataError, match=r"row p/0: its schema points at 'http://127\.0\.0\.1:9/schema\.json'"
    ):
        SCORER([answered("{}", schema=schema)])
    inside = {"$ref": "#/$defs/year", "$defs": {"year": {"type": "integer"}}}
    assert SCORER([answered("3", schema=inside), answered('"3"', schema=inside)]).values.tolist() == [
        1.0,
        0.0,
    ]
