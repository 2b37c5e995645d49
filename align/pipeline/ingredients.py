"""What a stage's result depends on, flat, and the key that is its hash.

Names of stages are not among the ingredients: an input stands with its key. So two recipes that share a stage
share its artifact. Only where a result is labelled with the names of its inputs, a list of them, they count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from align.config.base import Data, DataRef, StageOptions, TrainingOptions
from align.config.graph import BASE, inputs_of
from align.config.rewards import REWARDS_FROM, FunctionReward
from align.config.schema import Recipe
from align.data import cards, template
from align.errors import AlignError, DataError, collected, keyed, raise_all
from align.models import precision, sources
from align.pipeline.codehash import code_of
from align.reward import functions
from align.rollout.environment import ENVIRONMENTS

FORMAT = 1  # raise when what goes into a key changes its meaning
INPUT, DATA, CODE = "input.", "data.", "code."


def seed_of(recipe: Recipe, options: StageOptions) -> int:
    """The stage's own seed, or the recipe's."""
    return recipe.seed if options.seed is None else options.seed


def ingredients(recipe: Recipe, name: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Everything that stage `name` is made of, as JSON-able values under flat names.

    Args:
        recipe: The recipe.
        name: The stage.
        keys: Name -> key of each stage that it reads.

    Returns:
        Options by their own names; `seed`, `base`, `dtype`, `template`, `adapter.*`; `input.*`, `data.*` and
        `code.*`.

    Raises:
        AlignError: Data or a base model that cannot be read, all of them together.
    """
    options = recipe.stages[name]
    found: dict[str, Any] = {
        **_plain_options(options),
        **_inputs(options, keys),
        "seed": seed_of(recipe, options),
        "dtype": precision.resolve(recipe.hardware.dtype),
        "template": _template(recipe.model.template),
    }
    if isinstance(options, TrainingOptions):
        found.update(_flat("adapter", resolved(recipe.adapter)))
    errors: list[AlignError] = []
    with collected(errors), keyed("model"):
        found["base"] = sources.identity(recipe.model)
    for field in data_fields(options):
        with collected(errors), keyed(f"stages.{name}.{field}"):
            found.update(_data(field, getattr(options, field)))
    raise_all([_by_key(error) for error in errors])
    code = code_of(f"align.stages.{options.kind}") | _own_functions(options)
    return found | {f"{CODE}{module}": digest for module, digest in code.items()}


def _own_functions(options: StageOptions) -> dict[str, str]:
    """The file of the user's reward functions and environments, where one of them is used."""
    rewards = getattr(options, "reward", None)
    used = isinstance(rewards, dict) and any(isinstance(one, FunctionReward) for one in rewards.values())
    environment = getattr(options, "environment", None)
    used |= environment is not None and environment not in ENVIRONMENTS
    return {REWARDS_FROM: functions.digest()} if used else {}


def _by_key(error: AlignError) -> AlignError:
    """`stages.sft.data: ...` in the place of `data: ...`, which says less."""
    return DataError(error.key, error.what, error.fix) if error.where == "data" else error


def data_key(name: str, options: StageOptions) -> str:
    """Key path of a stage's data; of the stage itself where it reads several."""
    fields = data_fields(options)
    return f"stages.{name}.{fields[0]}" if len(fields) == 1 else f"stages.{name}"


def _template(name: str | None) -> str:
    """Name and content of a shipped chat template; a model's own is part of the base model."""
    if name is None:
        return "the model's own"
    path = template.FOLDER / f"{name}.jinja"
    return f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}" if path.is_file() else name


def key_of(found: Mapping[str, Any]) -> str:
    """SHA-256 of the ingredients, in hex."""
    text = json.dumps({"format": FORMAT, **found}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_key(recipe: Recipe) -> str:
    """Hash of the whole composed recipe, without what only changes how a run is shown."""
    text = json.dumps(resolved(recipe, leave_out=("plan", "debug", "runs")), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def resolved(model: BaseModel, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every option with its value as plain data, without those that only change logging and saving."""
    fields = type(model).model_fields
    return {
        name: _plain(getattr(model, name))
        for name, info in fields.items()
        if not is_log_only(info) and name not in leave_out
    }


def is_log_only(info: FieldInfo) -> bool:
    """True for an option that changes no result."""
    return isinstance(info.json_schema_extra, dict) and bool(info.json_schema_extra.get("log_only"))


def data_fields(options: StageOptions) -> list[str]:
    """Options that name data and are given."""
    fields = type(options).model_fields
    named = [name for name, info in fields.items() if DataRef in _parts(info.annotation)]
    return [name for name in named if getattr(options, name) is not None]


def _parts(annotation: Any) -> set[Any]:
    """Every type inside an annotation."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_parts, inner)) if inner else {annotation}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return resolved(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _plain_options(options: StageOptions) -> dict[str, Any]:
    """Options as they are, but for data and inputs, of which only lists of names count."""
    read = inputs_of(options)
    found: dict[str, Any] = {}
    for name, value in resolved(options, leave_out=("seed", *data_fields(options))).items():
        found.update(_flat(name, value))
    return {name: value for name, value in found.items() if name not in read or isinstance(value, list)}


def _inputs(options: StageOptions, keys: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in inputs_of(options):
        value = _at(options, path)
        if isinstance(value, list):
            found.update({f"{INPUT}{path}.{i}": _key(name, keys) for i, name in enumerate(value)})
        else:
            found[f"{INPUT}{path}"] = _key(value, keys)
    return found


def _at(options: Any, path: str) -> Any:
    """The option at a path such as `reward.helpful.model`."""
    for part in path.split("."):
        if isinstance(options, list):
            options = options[int(part)]
        else:
            options = options[part] if isinstance(options, dict) else getattr(options, part)
    return options


def _key(name: str, keys: Mapping[str, str]) -> str:
    return BASE if name == BASE else keys[name]


def without_stages(data: Data) -> list[str | DataRef]:
    """Of what is named, all but the rows of stages."""
    named = data if isinstance(data, list) else [data]
    return [ref for ref in named if not (isinstance(ref, DataRef) and ref.stage is not None)]


def _data(field: str, value: Any) -> dict[str, Any]:
    """Content of the data, in order; where it lies does not count, how it is read does.

    Rows of stages are inputs.
    """
    plain = without_stages(value)
    found = {
        f"{DATA}{field}.{i}": f"{name} {digest}"
        for i, (name, digest) in enumerate(cards.identity(plain).items() if plain else ())
    }
    for i, ref in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(ref, DataRef):
            how = ref.model_dump(exclude={"card", "path", "stage"}, exclude_defaults=True)
            found.update({f"{DATA}{field}.{i}.{option}": value for option, value in how.items()})
    return found


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested mappings under dotted names; lists stay whole."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, part in value.items():
        found.update(_flat(f"{prefix}.{name}", part))
    return found
