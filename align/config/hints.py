"""Turns pydantic's errors into one line each: the value, what is meant, and the nearest key or choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from align.config import fields
from align.config.engines import DIVERGENCES
from align.config.refuse import Finding
from align.registry import nearest

Raw = Callable[[str], str | None]  # key -> the scalar as it is written in its file
YAML_BOOLEANS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false"})
OTHER_NAMES = {  # what other projects call it
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "lr_scheduler_type": "schedule",
    "warmup_ratio": "warmup",
    "max_prompt_length": "max_prompt",
    "max_completion_length": "max_answer",
    "normalise_reward": "reward_scale",
    "kl_coeff": "kl_coef",
    "beta": "kl_coef",
    "num_generations": "samples_per_prompt",
    "epsilon_high": "clip_high",
    "delta": "dual_clip",
    "mask_truncated_completions": "drop_cut",
    "init_kl_coef": "kl_coef",
    "cliprange": "clip",
    "cliprange_value": "value_clip",
    "num_ppo_epochs": "epochs",
    "num_mini_batches": "minibatches",
    "dataset": "data",
    "loss_type": "loss",
    "use_weighting": "wpo",
    "f_divergence_type": "divergence",
    **{theirs: ours for ours, theirs in DIVERGENCES.items() if ours != theirs},
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "use_rslora": "rslora",
    "init_lora_weights": "init",
    "num_virtual_tokens": "virtual_tokens",
    "target_modules": "targets",
    "rank": "r",
    "load_in_4bit": "quantize_base",
    "quantization_bit": "quantize_base",
    "torch_dtype": "dtype",
}


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """`did you mean stages.ppo.beta?`, or nothing where no name is near."""
    known = list(names)
    near = nearest(name, known) or next((other for other in known if sorted(other) == sorted(name)), None)
    if near is None:
        other = nearest(name, OTHER_NAMES)
        near = OTHER_NAMES[other] if other and OTHER_NAMES[other] in known else None
    return f"did you mean {prefix}{near}?" if near else ""


def show(value: object) -> str:
    """A value for an error line, cut to a readable length."""
    text = (
        {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else repr(value)
    )
    return text if len(text) <= 60 else text[:57] + "..."


def findings_of(
    error: ValidationError, options: type[BaseModel], data: Any, prefix: str, raw: Raw
) -> list[Finding]:
    """A finding for each key that pydantic refused.

    Args:
        error: What `options.model_validate(data)` raised.
        options: The type.
        data: What was validated.
        prefix: Key path of `data`, such as `stages.ppo`.
        raw: Looks up how a scalar is written.
    """
    found: dict[str, Finding] = {}
    unfit: list[list[str]] = []
    for item in error.errors(include_url=False):
        path, fits = _key_path(item, data)
        if fits:
            key = ".".join([prefix, *path] if prefix else path)
            found.setdefault(key, _finding(key, path, dict(item), options, raw))
        elif path not in unfit:
            unfit.append(path)
    for path in unfit:
        key = ".".join([prefix, *path] if prefix else path)
        if not any(name == key or name.startswith(f"{key}.") for name in found):  # else a branch did fit
            found[key] = _unfit(key, _lookup(data, path), fields.find_property(options, path) or {})
    return list(found.values())


def _key_path(item: ErrorDetails, data: Any) -> tuple[list[str], bool]:
    """The key path of an error: pydantic also names the branch of a union that it tried.

    Returns:
        The path, and False where it ends at a branch that the value is not meant for (the text branch, where
        a mapping was given).
    """
    path: list[str] = []
    value = data
    location = item["loc"]
    for i, part in enumerate(location):
        missing = item["type"] == "missing" and i == len(location) - 1
        if isinstance(value, dict) and (part in value or missing):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif _branch_fits(str(part), value):
            continue
        else:
            return path, False
        path.append(str(part))
    return path, True


def _branch_fits(branch: str, value: Any) -> bool:
    if branch.startswith("list["):
        return isinstance(value, list)
    return isinstance(value, dict) and branch not in ("str", "int", "float", "bool")


def _lookup(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


def _unfit(key: str, value: Any, schema: dict[str, Any]) -> Finding:
    """A value that fits none of the forms that a key takes."""
    takes = fields.expected(schema)
    if takes.choices:
        return _no_choice(key, value, takes)
    what = f"is not {takes.noun}" if takes.limits else "is not taken"  # without limits both halves were one
    return Finding(key, f"{show(value)} {what}", f"give {takes}")


def _no_choice(key: str, value: Any, takes: fields.Expected) -> Finding:
    return Finding(
        key, f"{show(value)} is not a choice", did_you_mean(str(value), takes.choices) or f"give {takes}"
    )


def _finding(
    key: str, path: Sequence[str], item: dict[str, Any], options: type[BaseModel], raw: Raw
) -> Finding:
    kind, value = item["type"], item["input"]
    if kind == "extra_forbidden":
        return Finding(key, "no such key", _elsewhere(path, options) or _near_key(key, path, options))
    if kind.startswith("union_tag"):
        return _wrong_kind(key, dict(item))
    schema = fields.find_property(options, path) or {}
    takes = fields.expected(schema)
    if kind == "missing":
        return Finding(key, "is missing", _give(schema, takes))
    if kind == "value_error":
        what, _, fix = str(item["ctx"]["error"]).partition("; ")
        return Finding(key, what, fix)
    written = raw(key)
    if (
        isinstance(value, bool)
        and written is not None
        and written.lower() in YAML_BOOLEANS - {"true", "false"}
    ):
        if takes.noun == "text":
            return Finding(key, f"YAML read `{written}` as {value}", f"quote it: '{written}'")
        return Finding(key, f"YAML read `{written}` as {value}, which is not {takes.noun}", f"give {takes}")
    if kind == "literal_error":
        return _no_choice(key, value, takes)
    if kind == "string_pattern_mismatch":
        return Finding(key, f"{show(value)} has the wrong form", _give(schema, takes))
    if kind == "finite_number":
        return Finding(key, f"{value} is not a finite number", f"give {takes}")
    if kind.endswith(("_type", "_parsing")) or kind == "int_from_float":
        return Finding(key, f"{show(value)} is not {takes.noun}", f"give {takes}")
    return Finding(key, f"{show(value)} is out of range", f"give {takes}")


def _wrong_kind(key: str, item: dict[str, Any]) -> Finding:
    """A mapping whose `kind` is missing, or none of those there are."""
    if item["type"] == "union_tag_not_found":
        return Finding(f"{key}.kind", "is missing", f"choose {', '.join(fields.REWARDS)}")
    tag = item["ctx"]["tag"]
    hint = did_you_mean(tag, fields.REWARDS) or f"choose {', '.join(fields.REWARDS)}"
    return Finding(f"{key}.kind", f"{show(tag)} is not a kind", hint)


def _give(schema: dict[str, Any], takes: fields.Expected) -> str:
    text = schema.get("description")
    return f"give {takes} ({text})" if text else f"give {takes}"


def _elsewhere(path: Sequence[str], options: type[BaseModel]) -> str:
    """Where a key stands that is not one of these: in another kind of the same part, or in the hardware."""
    (name, *below) = path
    if below:
        return ""
    for family in (fields.MODELS, fields.ADAPTERS, fields.STAGES):
        if options not in family.values():
            continue
        kinds = [kind for kind, other in family.items() if name in other.model_fields]
        if kinds:
            return f"kind {' or '.join(kinds)} has it"
    ours = OTHER_NAMES.get(name, name)
    return f"did you mean hardware.{ours}?" if ours in fields.HARDWARE.model_fields else ""


def _near_key(key: str, path: Sequence[str], options: type[BaseModel]) -> str:
    schema = fields.find_property(options, path[:-1]) if len(path) > 1 else fields.json_schema(options)
    names: set[str] = set()
    for branch in fields.branches(schema or {}, fields.json_schema(options)):
        names |= set(branch.get("properties", {}))
    near = did_you_mean(path[-1], sorted(names), prefix=key.removesuffix(path[-1]))
    return near or _of_an_adapter(path[-1], options) or "align keys= lists those there are"


def _of_an_adapter(name: str, options: type[BaseModel]) -> str:
    """The kind of adapter that has a key which this one, or the model, does not have; or nothing."""
    name = OTHER_NAMES.get(name, name)
    kinds = [kind for kind, other in fields.ADAPTERS.items() if name in other.model_fields]
    if not kinds or options not in (*fields.ADAPTERS.values(), *fields.MODELS.values()):
        return ""
    return f"try adapter={kinds[0]}, which has adapter.{name}"
