"""Options that are right one by one and wrong together. Each finding names both keys and values that work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from align.config.refuse import Finding
from align.config.schema import LoraAdapter, PathModel, TinyModel
from align.config.stages import (
    EvaluateOptions,
    PpoOptions,
    RewardOptions,
    StageOptions,
    SupervisedOptions,
)

TINY_CONTEXT = 1024  # of the model that models/sources.py builds
MOST_HEADS = 32


@dataclass(frozen=True)
class Size:
    """What is known about a model before it is opened; None where it is not known."""

    layers: int | None = None
    context: int | None = None


def size_of(model: BaseModel | None) -> Size:
    """Layers and context (tokens) of a tiny model, or of a local folder by its config.json."""
    if isinstance(model, TinyModel):
        return Size(model.layers, TINY_CONTEXT)
    if not isinstance(model, PathModel):
        return Size()
    try:
        config = json.loads((Path(model.path) / "config.json").read_text())
        layers, context = config.get("num_hidden_layers"), config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return Size()  # a folder that cannot be used is refused when the model is opened
    return Size(layers if isinstance(layers, int) else None, context if isinstance(context, int) else None)


def contradictions(
    model: BaseModel | None, adapter: BaseModel | None, stages: Mapping[str, StageOptions]
) -> list[Finding]:
    """Everything that cannot go together in the parts of a recipe that are right by themselves."""
    size = size_of(model)
    findings = _model(model) + _adapter(adapter, size)
    for name, options in stages.items():
        key = f"stages.{name}"
        findings += _lengths(key, options, size)
        if isinstance(options, RewardOptions):
            findings += _reward(key, options, adapter, size)
        if isinstance(options, PpoOptions):
            findings += _ppo(key, options)
        if isinstance(options, EvaluateOptions):
            findings += _evaluate(key, options)
    return findings


def _model(model: BaseModel | None) -> list[Finding]:
    if not isinstance(model, TinyModel):
        return []
    good = [heads for heads in range(1, MOST_HEADS + 1) if model.hidden % (2 * heads) == 0]
    if model.heads in good:
        return []
    nearest = min(good, key=lambda heads: abs(heads - model.heads), default=1)
    what = f"{model.heads} heads do not cut model.hidden={model.hidden} into even parts"
    return [Finding("model.heads", what, f"try model.heads={nearest} with model.hidden={model.hidden}")]


def _adapter(adapter: BaseModel | None, size: Size) -> list[Finding]:
    if not isinstance(adapter, LoraAdapter) or adapter.top_layers is None or size.layers is None:
        return []
    if adapter.top_layers <= size.layers:
        return []
    what = f"{adapter.top_layers} layers, and the model has {size.layers}"
    return [Finding("adapter.top_layers", what, f"try adapter.top_layers={size.layers}, or null for all")]


def _lengths(key: str, options: StageOptions, size: Size) -> list[Finding]:
    """Prompt and answer must fit into the model's context."""
    if size.context is None:
        return []
    if isinstance(options, PpoOptions | EvaluateOptions):
        other, answer = "sampling.max_new_tokens", options.sampling.max_new_tokens
    elif isinstance(options, SupervisedOptions):
        other, answer = "max_answer", options.max_answer
    else:
        return []
    if options.max_prompt + answer <= size.context:
        return []
    half = size.context // 2
    what = f"{options.max_prompt} and {key}.{other}={answer} are more than the model's {size.context} tokens"
    return [
        Finding(f"{key}.max_prompt", what, f"try {key}.max_prompt={half} {key}.{other}={size.context - half}")
    ]


def _reward(key: str, options: RewardOptions, adapter: BaseModel | None, size: Size) -> list[Finding]:
    findings: list[Finding] = []
    if options.layers is not None and size.layers is not None and options.layers > size.layers:
        what = f"{options.layers}, and the model has {size.layers} layers"
        findings.append(Finding(f"{key}.layers", what, f"try {key}.layers={size.layers}, or null for all"))
    findings += _cut_above_adapter(key, options, adapter, size)
    if options.loss == "plackett_luce" and options.margin > 0:
        what = f"{options.margin:g} has no place in {key}.loss=plackett_luce"
        findings.append(Finding(f"{key}.margin", what, f"try {key}.loss=bradley_terry, or {key}.margin=0"))
    return findings


def _cut_above_adapter(
    key: str, options: RewardOptions, adapter: BaseModel | None, size: Size
) -> list[Finding]:
    """The adapter sits on the upper layers; a reward model cut below them would have nothing to train."""
    top = adapter.top_layers if isinstance(adapter, LoraAdapter) else None
    if options.layers is None or top is None:
        return []
    if options.model == "base" and top > options.layers:
        what = f"keeps {options.layers} layers, and adapter.top_layers={top} of them are to be trained"
        return [
            Finding(f"{key}.layers", what, f"try adapter.top_layers={options.layers}, or {key}.layers={top}")
        ]
    if options.model != "base" and size.layers is not None and options.layers <= size.layers - top:
        below = size.layers - top
        what = f"keeps {options.layers} layers, and adapter.top_layers={top} trains the ones above {below}"
        return [
            Finding(
                f"{key}.layers", what, f"try {key}.layers={size.layers}, or adapter.top_layers={size.layers}"
            )
        ]
    return []


def _ppo(key: str, options: PpoOptions) -> list[Finding]:
    findings: list[Finding] = []
    if options.critic_warmup >= options.iterations:
        what = f"{options.critic_warmup} leaves the policy none of {key}.iterations={options.iterations}"
        findings.append(
            Finding(f"{key}.critic_warmup", what, f"try {key}.critic_warmup={options.iterations - 1}")
        )
    if options.kl_target is not None and options.kl_coef == 0:
        what = f"{options.kl_target:g} cannot be reached: it scales {key}.kl_coef=0"
        findings.append(Finding(f"{key}.kl_target", what, f"try {key}.kl_coef=0.05, or {key}.kl_target=null"))
    return findings


def _evaluate(key: str, options: EvaluateOptions) -> list[Finding]:
    twice = sorted({name for name in options.policies if options.policies.count(name) > 1})
    return [Finding(f"{key}.policies", f"{name!r} stands twice", "name each policy once") for name in twice]
