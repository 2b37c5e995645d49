"""From the options of an adapter to peft's config, and whether a base model has what they name."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, TaskType
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from align.config.schema import (
    ALL_LINEAR,
    AnyAdapter,
    Ia3Adapter,
    LoraAdapter,
    NoAdapter,
    PrefixTuningAdapter,
    PromptTuningAdapter,
    quantization_of,
)
from align.errors import ConfigError
from align.models.freezing import frozen_names

BLOCK = 64  # weights with one scale in 4 bits
PeftAdapter = LoraAdapter | Ia3Adapter | PromptTuningAdapter | PrefixTuningAdapter


def linear_names(model: PreTrainedModel) -> list[str]:
    """Last part of the names of all linear layers inside the decoder's layers, e.g. `q_proj`."""
    layers = decoder_layers(model)
    return sorted({name.rsplit(".", 1)[-1] for name, m in layers.named_modules() if isinstance(m, nn.Linear)})


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The stack of decoder layers.

    Raises:
        ConfigError: A family whose stack is not found.
    """
    body = model.base_model
    for name in ("layers", "h"):
        if isinstance(getattr(body, name, None), nn.ModuleList):
            return getattr(body, name)  # type: ignore[no-any-return]
    raise ConfigError("model", f"no stack of decoder layers in {type(body).__name__}", "use adapter=none")


def targets_of(model: PreTrainedModel, options: LoraAdapter) -> list[str]:
    """Names of the modules to adapt.

    Raises:
        ConfigError: A target that names no module.
    """
    names = linear_names(model)
    targets = names if options.targets == ALL_LINEAR else options.targets
    targets = [targets] if isinstance(targets, str) else list(targets)
    unknown = sorted(set(targets) - set(names))
    if unknown:
        raise ConfigError(
            "adapter.targets", f"{unknown[0]!r} names no linear layer", f"choose from {', '.join(names)}"
        )
    return targets


def check_adapter(base: Path, options: AnyAdapter) -> None:
    """See that a model has what an adapter names, without reading its weights.

    Raises:
        ConfigError: A target that names no module, a rank above a module's size, a pattern without a match.
    """
    lora = isinstance(options, LoraAdapter) and (options.targets != ALL_LINEAR or options.mutates)
    freezes = isinstance(options, NoAdapter) and bool(options.freeze)
    rounded = quantization_of(options) is not None
    if not (lora or freezes or rounded or isinstance(options, Ia3Adapter)):
        return  # nothing is named
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    if isinstance(options, NoAdapter):
        frozen_names([name for name, _ in model.named_parameters()], options.freeze)
    else:
        config_of(model, options, "CAUSAL_LM", base)
        if rounded:
            blocks_fit(model)


def config_of(model: PreTrainedModel, options: PeftAdapter, task: str, base: Path) -> PeftConfig:
    """Peft's config of a new adapter.

    Args:
        model: The plain model.
        options: The options.
        task: Peft's task type; SEQ_CLS trains and saves the score head too.
        base: Written into the config as the model that the adapter belongs to.

    Raises:
        ConfigError: A target that names no module, a rank above a module's size.
    """
    config: PeftConfig
    if isinstance(options, LoraAdapter):
        config = _lora(model, options)
    elif isinstance(options, Ia3Adapter):
        config = _ia3(model, options)
    elif isinstance(options, PromptTuningAdapter):
        config = PromptTuningConfig(
            num_virtual_tokens=options.virtual_tokens,
            prompt_tuning_init=options.init.upper(),
            prompt_tuning_init_text=options.init_text,
            tokenizer_name_or_path=str(base) if options.init == "text" else None,
        )
    else:
        config = PrefixTuningConfig(
            num_virtual_tokens=options.virtual_tokens,
            init_weights="zero" if options.init == "zero" else None,
        )
    config.task_type = TaskType[task]
    config.base_model_name_or_path = str(base)
    config.modules_to_save = ["score"] if task == "SEQ_CLS" else None
    return config


def _lora(model: PreTrainedModel, options: LoraAdapter) -> LoraConfig:
    targets = targets_of(model, options)
    count, top = len(decoder_layers(model)), options.top_layers
    if top is not None and top > count:
        raise ConfigError("adapter.top_layers", f"{top} is above the model's {count} layers", "lower it")
    if options.mutates:
        _rank_fits(model, options, targets)
    return LoraConfig(
        r=options.r,
        lora_alpha=options.alpha,
        use_rslora=options.rslora,
        init_lora_weights=True if options.init == "default" else options.init,
        lora_dropout=options.dropout,
        use_dora=options.kind == "dora",
        target_modules=targets,
        layers_to_transform=list(range(count - top, count)) if top else None,
    )


def _rank_fits(model: PreTrainedModel, options: LoraAdapter, targets: list[str]) -> None:
    """A matrix has no more directions to start from than its smaller side."""
    sides = {
        name: min(m.weight.shape)
        for name, m in decoder_layers(model).named_modules()
        if isinstance(m, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    }
    name = min(sides, key=lambda n: sides[n])
    if options.r > sides[name]:
        what = f"{options.r}, and adapter.init={options.init} finds {sides[name]} directions in {name}"
        raise ConfigError("adapter.r", what, f"try adapter.r={sides[name]}, or adapter.init=default")


def blocks_fit(model: PreTrainedModel) -> None:
    """See that weights with one scale lie in one row; else bitsandbytes 0.50 mistakes their scales on a CPU.

    Raises:
        ConfigError: A linear layer whose inputs are no multiple of 64.
    """
    for name, m in decoder_layers(model).named_modules():
        if isinstance(m, nn.Linear) and m.in_features % BLOCK:
            what = f"blocks of {BLOCK} weights do not fit the {m.in_features} inputs of {name}"
            raise ConfigError(
                "adapter.quantize_base", what, "use another model, or adapter.quantize_base=null"
            )


def _ia3(model: PreTrainedModel, options: Ia3Adapter) -> IA3Config:
    family = model.config.model_type
    known = IA3_TARGETS.get(family)
    targets = options.targets or known
    if targets is None:
        what = f"is not given, and peft knows none for {family}"
        raise ConfigError("adapter.targets", what, f"choose from {', '.join(linear_names(model))}")
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()):
            what = f"{target!r} names no module"
            raise ConfigError("adapter.targets", what, f"choose from {', '.join(linear_names(model))}")
    inner = [name for name in IA3_FEEDFORWARD.get(family, []) if name in targets]
    return IA3Config(
        target_modules=list(targets),
        feedforward_modules=inner if options.feedforward is None else list(options.feedforward),
    )
