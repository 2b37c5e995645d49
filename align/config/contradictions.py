"""Options that are right one by one and wrong together. Each finding names both keys and values that work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from align.config.adapter_contradictions import (
    adapter_alone,
    adapter_in_stage,
    virtual_tokens,
)
from align.config.base import SamplingOptions, StageOptions
from align.config.engines import not_taken
from align.config.losses import LOSSES, Traits, weights_of
from align.config.refuse import Finding
from align.config.reward_contradictions import nothing_earned
from align.config.rl_contradictions import rl, sample
from align.config.rl_options import RlOptions, SampleOptions
from align.config.schema import PathModel, TinyModel
from align.config.stages import (
    DpoOptions,
    EvaluateOptions,
    KtoOptions,
    ProcessRewardOptions,
    RewardOptions,
    ScoringOptions,
    SftOptions,
    SupervisedOptions,
)
from align.config.unread import unread

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
    model: BaseModel | None,
    adapter: BaseModel | None,
    stages: Mapping[str, StageOptions],
    dtype: object = "auto",
) -> list[Finding]:
    """Everything that cannot go together in the parts of a recipe that are right by themselves.

    Args:
        model: What is known of it; None where it is not right by itself.
        adapter: None where it is not right by itself.
        stages: Those that are right by themselves.
        dtype: Of the hardware; `auto` stands for one that is not decided yet.
    """
    size = size_of(model)
    findings = _model(model) + adapter_alone(adapter, size.layers)
    for name, options in stages.items():
        key = f"stages.{name}"
        findings += _lengths(key, options, size, virtual_tokens(adapter))
        findings += _sampling(f"{key}.sampling", getattr(options, "sampling", None))
        findings += adapter_in_stage(key, options, adapter, size.layers)
        if isinstance(options, ScoringOptions):
            findings += _layers(key, options, size)
        if isinstance(options, SftOptions):
            findings += _sft(key, options)
        if isinstance(options, SupervisedOptions):
            findings += not_taken(key, options, adapter, dtype)
        if isinstance(options, RewardOptions):
            findings += _not_read_by_reward(key, options)
        if isinstance(options, ProcessRewardOptions):
            findings += _process_reward(key, options)
        if isinstance(options, DpoOptions):
            findings += _dpo(key, options)
        if isinstance(options, KtoOptions):
            findings += _kto(key, options)
        if isinstance(options, RlOptions):
            findings += rl(key, options, stages)
        if isinstance(options, SampleOptions):
            findings += sample(key, options)
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


def _lengths(key: str, options: StageOptions, size: Size, virtual: int) -> list[Finding]:
    """Prompt and answer, behind the virtual tokens, must fit into the model's context."""
    if size.context is None:
        return []
    if isinstance(options, RlOptions | EvaluateOptions):
        other, answer = "sampling.max_new_tokens", options.sampling.max_new_tokens
    elif isinstance(options, SupervisedOptions):
        other, answer = "max_answer", options.max_answer
    else:
        return []
    room = size.context - virtual
    if options.max_prompt + answer <= room:
        return []
    if room < 8:
        what = f"{virtual} leave no room in the model's {size.context} tokens"
        return [Finding("adapter.virtual_tokens", what, "try adapter.virtual_tokens=20")]
    half = room // 2
    behind = f" behind {virtual} virtual ones" if virtual else ""
    what = f"{options.max_prompt} and {key}.{other}={answer} are more than the model's {room} tokens{behind}"
    return [Finding(f"{key}.max_prompt", what, f"try {key}.max_prompt={half} {key}.{other}={room - half}")]


def _sampling(key: str, sampling: SamplingOptions | None) -> list[Finding]:
    if sampling is None:
        return []
    findings: list[Finding] = []
    most = sampling.max_new_tokens
    if sampling.min_new_tokens > most:
        what = f"{sampling.min_new_tokens} is more than {key}.max_new_tokens={most}"
        findings.append(Finding(f"{key}.min_new_tokens", what, f"try {key}.min_new_tokens={most}"))
    for name in ("top_k", "top_p", "min_p"):
        value, default = getattr(sampling, name), SamplingOptions.model_fields[name].default
        if sampling.temperature == 0 and value != default:
            what = f"{value:g} is not read by {key}.temperature=0, which takes the most likely token"
            back = "null" if default is None else f"{default:g}"
            fix = f"try {key}.temperature=1, or {key}.{name}={back}"
            findings.append(Finding(f"{key}.{name}", what, fix))
    return findings


def _sft(key: str, options: SftOptions) -> list[Finding]:
    if options.loss == "nll":
        return []
    return unread(key, options, "label_smoothing", f"{key}.loss={options.loss}", f"{key}.loss=nll")


def _layers(key: str, options: ScoringOptions, size: Size) -> list[Finding]:
    findings: list[Finding] = []
    if options.layers is not None and size.layers is not None and options.layers > size.layers:
        what = f"{options.layers}, and the model has {size.layers} layers"
        findings.append(Finding(f"{key}.layers", what, f"try {key}.layers={size.layers}, or null for all"))
    return findings


def _not_read_by_reward(key: str, options: RewardOptions) -> list[Finding]:
    """Options of other losses; thresholds fix what centring would fix."""
    ranks = ["bradley_terry", "plackett_luce"]
    readers = {
        "margin": ranks[:1],
        "label_smoothing": ranks[:1],
        "centring": ranks,
        "head_init": ranks,
        "scale": ["ordinal"],
    }
    findings: list[Finding] = []
    for name, losses in readers.items():
        if options.loss not in losses:
            findings += unread(key, options, name, f"{key}.loss={options.loss}", f"{key}.loss={losses[0]}")
    return findings


def _process_reward(key: str, options: ProcessRewardOptions) -> list[Finding]:
    if options.loss == "bce" or options.aggregate != "product":
        return []
    what = f"product multiplies probabilities, and {key}.loss=mse learns none"
    return [Finding(f"{key}.aggregate", what, f"try {key}.aggregate=min, or {key}.loss=bce")]


def _dpo(key: str, options: DpoOptions) -> list[Finding]:
    traits = {name: LOSSES[name] for name in weights_of(options.loss)}
    on_pairs = [name for name, trait in traits.items() if not trait.rankings]
    if on_pairs and len(on_pairs) < len(traits):
        whole = next(name for name in traits if name not in on_pairs)
        what = f"{whole} reads whole rankings, and {on_pairs[0]} pairs"
        return [Finding(f"{key}.loss", what, f"name one of them, or try {key}.loss={{sigmoid: 1, nll: 0.2}}")]
    findings = _exo(key, options, traits) + _divergence(key, options, traits)
    findings += _not_read_by_dpo(key, options, traits) + _wpo(key, options, traits)
    if any(trait.whole_batch for trait in traits.values()) and options.tokens_per_microbatch != "auto":
        what = f"{options.tokens_per_microbatch} would cut the step that {key}.loss=aot sorts as one"
        findings.append(
            Finding(f"{key}.tokens_per_microbatch", what, f"try {key}.tokens_per_microbatch=auto")
        )
    return findings


def _exo(key: str, options: DpoOptions, traits: Mapping[str, Traits]) -> list[Finding]:
    if "exo" not in traits or options.label_smoothing > 0:
        return []
    name = f"{key}.label_smoothing"
    return [Finding(name, "0 makes exo infinite", f"try {name}=0.001")]


def _divergence(key: str, options: DpoOptions, traits: Mapping[str, Traits]) -> list[Finding]:
    name = f"{key}.divergence"
    if options.divergence != "reverse_kl":
        unfit = [one for one, trait in traits.items() if trait.reference and not trait.divergence]
        free = [one for one, trait in traits.items() if not trait.reference]
        if unfit or len(free) == len(traits):
            what = f"{options.divergence} is not defined for {key}.loss={(unfit or free)[0]}"
            return [Finding(name, what, f"try {name}=reverse_kl, or {key}.loss=sigmoid")]
    if options.divergence == "alpha" and options.alpha is None:
        return [Finding(f"{key}.alpha", f"is missing, and {name}=alpha reads it", f"try {key}.alpha=0.5")]
    if options.divergence != "alpha":
        return unread(key, options, "alpha", f"{name}={options.divergence}", f"{name}=alpha")
    return []


def _wpo(key: str, options: DpoOptions, traits: Mapping[str, Traits]) -> list[Finding]:
    """Weights of pairs need a loss for each pair by itself."""
    apart = [name for name, trait in traits.items() if trait.rankings or trait.whole_batch]
    if not options.wpo or not apart:
        return []
    what = f"true weighs pairs, and {key}.loss={apart[0]} has no loss of a pair by itself"
    return [Finding(f"{key}.wpo", what, f"try {key}.loss=sigmoid, or {key}.wpo=false")]


def _not_read_by_dpo(key: str, options: DpoOptions, traits: Mapping[str, Traits]) -> list[Finding]:
    """Options of other losses, each with whether these read it and a loss that does."""
    readers = {
        "label_smoothing": (any(trait.smoothing for trait in traits.values()), "sigmoid"),
        "discopop_tau": ("discopop" in traits, "discopop"),
        "simpo_gamma": ("simpo" in traits, "simpo"),
        "max_answers": (any(trait.rankings for trait in traits.values()), "plackett_luce"),
        # The other losses read log-probs of whole answers, each token of weight 1.
        "ld_alpha": (all(trait.reference and not trait.rankings for trait in traits.values()), "sigmoid"),
    }
    findings: list[Finding] = []
    for name, (read, reader) in readers.items():
        if not read:
            findings += unread(key, options, name, f"{key}.loss={', '.join(traits)}", f"{key}.loss={reader}")
    return findings


def _kto(key: str, options: KtoOptions) -> list[Finding]:
    if options.loss != "kto" or options.batch_size > 1:
        return []
    what = f"1 leaves {key}.loss=kto no other answer to estimate its KL from"
    return [Finding(f"{key}.batch_size", what, f"try {key}.batch_size=16, or {key}.loss=apo_zero_unpaired")]


def _evaluate(key: str, options: EvaluateOptions) -> list[Finding]:
    twice = sorted({name for name in options.policies if options.policies.count(name) > 1})
    findings = [
        Finding(f"{key}.policies", f"{name!r} stands twice", "name each policy once") for name in twice
    ]
    return findings + nothing_earned(f"{key}.reward", options.reward, options.kind)
