"""Answers that must be JSON of a shape that the prompt's row gives."""

from __future__ import annotations

import json
import re
from typing import Any

from align.config.rewards import JsonSchemaReward
from align.errors import DataError
from align.reward.types import Answered, Scorer, one_by_one

_FENCE = re.compile(r"```[A-Za-z]*\n(.*?)\n?```", re.DOTALL)


def json_schema_scorer(options: JsonSchemaReward) -> Scorer:
    """1 where the answer is JSON that the prompt's `schema` allows, else 0.

    Raises:
        DataError: The schema points beyond itself.
    """
    from referencing.exceptions import Unresolvable

    def score(answer: Answered) -> float:
        validator = validator_of(answer.fact("schema"))
        try:
            return float(validator.is_valid(loads(answer.text)))
        except (ValueError, RecursionError):  # no JSON, or nested deeper than the schema can be followed
            return 0.0
        except Unresolvable as error:
            what = f"its schema points at {error.ref!r}, which is not in it"
            raise DataError(f"row {answer.id}", what, "put it under $defs") from None

    return one_by_one(score)


def loads(text: str) -> Any:
    """The value of a text that is JSON as a whole, with or without a fence of three backticks around it.

    Raises:
        ValueError: It is none; NaN and Infinity are none either.
    """
    bare = text.strip()
    fenced = _FENCE.fullmatch(bare)
    try:
        return json.loads(fenced[1] if fenced else bare, parse_constant=_refused)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def validator_of(schema: Any) -> Any:
    """A validator of a JSON Schema, which looks nothing up beyond the schema itself.

    Raises:
        ValueError: The schema is none.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"is no JSON Schema: {error.message}") from None
    return kind(schema, registry=Registry())


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
