"""Adapters: options that are right one by one and wrong together, and stages that an adapter cannot serve."""

from __future__ import annotations

from pydantic import BaseModel

from align.config.base import StageOptions
from align.config.losses import LOSSES, weights_of
from align.config.refuse import Finding
from align.config.rl_options import RlOptions
from align.config.schema import (
    PROMPT_LEARNING,
    Ia3Adapter,
    LoraAdapter,
    PrefixTuningAdapter,
    PromptTuningAdapter,
)
from align.config.stages import DpoOptions, KtoOptions, ScoringOptions
from align.config.unread import unread


def adapter_alone(adapter: BaseModel | None, layers: int | None) -> list[Finding]:
    """Findings in the options of an adapter; `layers` of the model, where they are known."""
    if isinstance(adapter, LoraAdapter):
        return _lora(adapter, layers)
    if isinstance(adapter, Ia3Adapter):
        return _ia3(adapter)
    return _prompt_tuning(adapter) if isinstance(adapter, PromptTuningAdapter) else []


def _lora(adapter: LoraAdapter, layers: int | None) -> list[Finding]:
    findings: list[Finding] = []
    if adapter.top_layers is not None and layers is not None and adapter.top_layers > layers:
        what = f"{adapter.top_layers} layers, and the model has {layers}"
        fix = f"try adapter.top_layers={layers}, or null for all"
        findings.append(Finding("adapter.top_layers", what, fix))
    if adapter.init == "orthogonal" and adapter.r % 2:
        what = f"{adapter.r} is odd, and adapter.init=orthogonal halves it"
        findings.append(Finding("adapter.r", what, f"try adapter.r={adapter.r + 1}"))
    if adapter.mutates and adapter.quantize_base is not None:
        rounding = f"adapter.quantize_base={adapter.quantize_base}"
        what = f"{adapter.init} is taken out of weights that {rounding} rounds"
        fix = "try adapter.init=default, or adapter.quantize_base=null"
        findings.append(Finding("adapter.init", what, fix))
    return findings


def _ia3(adapter: Ia3Adapter) -> list[Finding]:
    targets = adapter.targets or []
    apart = [name for name in adapter.feedforward or [] if name not in targets]
    if not apart:
        return []
    what = f"{', '.join(apart)} must be among adapter.targets too"
    if adapter.targets is None:
        what += ", which is not given"
    both = ",".join([*(targets or ["k_proj", "v_proj"]), *apart])
    return [Finding("adapter.feedforward", what, f"try adapter.targets=[{both}]")]


def _prompt_tuning(adapter: PromptTuningAdapter) -> list[Finding]:
    if adapter.init == "text" and adapter.init_text is None:
        return [
            Finding(
                "adapter.init_text",
                "is missing, and adapter.init=text reads it",
                "give one, or try adapter.init=sample_vocab",
            )
        ]
    if adapter.init != "text":
        return unread("adapter", adapter, "init_text", f"adapter.init={adapter.init}", "adapter.init=text")
    return []


def virtual_tokens(adapter: BaseModel | None) -> int:
    """Tokens that an adapter puts before every prompt."""
    return adapter.virtual_tokens if isinstance(adapter, PROMPT_LEARNING) else 0


def adapter_in_stage(
    key: str, options: StageOptions, adapter: BaseModel | None, layers: int | None
) -> list[Finding]:
    """Findings of a stage that the adapter cannot serve, or not with these options."""
    findings: list[Finding] = []
    if isinstance(adapter, PROMPT_LEARNING):
        findings += _no_reference(key, options, adapter.kind)
    if isinstance(options, ScoringOptions):
        findings += _cut_above_adapter(key, options, adapter, layers)
        findings += _cut_prefix(key, options, adapter)
    return findings


def _no_reference(key: str, options: StageOptions, kind: str) -> list[Finding]:
    """Fresh virtual tokens make another policy of the base, which then is no reference for a start at it."""
    if isinstance(options, RlOptions):
        field, start = "policy", options.policy
    elif isinstance(options, KtoOptions) or (
        isinstance(options, DpoOptions) and any(LOSSES[name].reference for name in weights_of(options.loss))
    ):
        field, start = "model", options.model
    else:
        return []
    if start != "base":
        return []
    what = f"base with fresh virtual tokens (adapter={kind}) is not base, which would be its reference"
    return [Finding(f"{key}.{field}", what, f"name a stage of kind sft before it, as in {key}.{field}=sft")]


def _cut_prefix(key: str, options: ScoringOptions, adapter: BaseModel | None) -> list[Finding]:
    if not isinstance(adapter, PrefixTuningAdapter) or options.layers is None or options.model == "base":
        return []
    what = f"{options.layers} would cut the prefix of {key}.model={options.model}, which has all layers"
    return [Finding(f"{key}.layers", what, f"try {key}.layers=null, or {key}.model=base")]


def _cut_above_adapter(
    key: str, options: ScoringOptions, adapter: BaseModel | None, layers: int | None
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
    if options.model != "base" and layers is not None and options.layers <= layers - top:
        below = layers - top
        what = f"keeps {options.layers} layers, and adapter.top_layers={top} trains the ones above {below}"
        return [Finding(f"{key}.layers", what, f"try {key}.layers={layers}, or adapter.top_layers={layers}")]
    return []
