"""Adapters through peft: attach, load, switch, save, and see that what was saved is complete."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
)
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from align.config.schema import LoraAdapter
from align.engine import flat, virtual
from align.errors import ConfigError, IntegrityError, warn_once
from align.models.adapter_configs import PeftAdapter, config_of, decoder_layers

ACTIVE = "default"
INITIAL = "initial"  # the start of an adapter whose base is not the original one


def is_peft(model: nn.Module) -> bool:
    """True where adapters are attached."""
    return isinstance(model, PeftModel)


def attach(model: PreTrainedModel, options: PeftAdapter, task: str, base: Path, seed: int) -> PeftModel:
    """A new adapter; what is random in it depends on the seed alone.

    Args:
        model: The plain model.
        options: Rank, targets and the like.
        task: peft's task type; SEQ_CLS trains and saves the score head too.
        base: Written into the adapter's config as the model it belongs to.
        seed: Of what is random.

    Raises:
        ConfigError: A target that names no module.
    """
    peft = _wrapped(model, config_of(model, options, task, base), seed)
    if isinstance(options, LoraAdapter) and options.mutates:
        keep_initial(peft)
    return peft


def _wrapped(model: PreTrainedModel, config: PeftConfig, seed: int = 0) -> PeftModel:
    """Peft's wrapper around a model; virtual tokens are handed to the engine, which puts them in place."""
    body = model.base_model
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        peft: PeftModel = get_peft_model(model, config)
    finally:
        torch.set_rng_state(state)
    if isinstance(config, PromptTuningConfig):
        virtual.use_tokens(body, lambda: peft.get_prompt(1)[0], config.num_virtual_tokens)
    elif isinstance(config, PrefixTuningConfig):
        virtual.use_cache(body, peft.get_prompt, config.num_virtual_tokens)
        flat.release(body)
        warn_once("prefix tuning takes the padded forward: a stream has no place for past keys and values")
    return peft


def layer_of(name: str) -> int | None:
    """Number of the decoder layer that a parameter belongs to, from its name."""
    found = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def load(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """An adapter from an artifact; every one of its tensors finds its place.

    Raises:
        IntegrityError: Tensors missing, left over, or of another shape.
    """
    config = _read_config(folder)
    config.inference_mode = not trainable
    peft = _wrapped(model, config)
    fill(peft, load_peft_weights(str(folder), device="cpu"), str(folder))
    return peft


def continued(model: PreTrainedModel, folder: Path, base: Path) -> PeftModel:
    """A policy's adapter on a classifier, of which fewer layers may be kept, with a head of its own.

    Args:
        model: The classifier.
        folder: Of the policy.
        base: Written into the adapter's config as the model it belongs to.

    Raises:
        ConfigError: No layer that the adapter trains is kept.
        IntegrityError: Tensors missing, left over, or of another shape.
    """
    config: Any = _read_config(folder)
    kept = range(len(decoder_layers(model)))
    if isinstance(config, LoraConfig):
        chosen = config.layers_to_transform or kept
        config.layers_to_transform = [i for i in chosen if i in kept]
        if not config.layers_to_transform:
            what = f"{len(kept)} keeps no layer that the policy's adapter trains ({chosen})"
            raise ConfigError("layers", what, "raise it")
    config.task_type, config.inference_mode = TaskType.SEQ_CLS, False
    config.modules_to_save, config.base_model_name_or_path = ["score"], str(base)
    peft = _wrapped(model, config)
    weights = load_peft_weights(str(folder), device="cpu")
    fits = {name: w for name, w in weights.items() if layer_of(name) in (None, *kept)}
    fill(peft, fits, str(folder), ignore=("score",))
    return peft


def _read_config(folder: Path) -> PeftConfig:
    """The config of a saved adapter, fit to build the same one: its weights are read, not made again."""
    config = PeftConfig.from_pretrained(folder)
    if isinstance(config, PromptTuningConfig):
        config.prompt_tuning_init = PromptTuningInit.RANDOM  # the text's tokenizer may be gone
    return config


def fill(peft: nn.Module, weights: dict[str, torch.Tensor], where: str, ignore: Iterable[str] = ()) -> None:
    """Copy adapter weights in; `ignore` lists parts of names that may stay as they are."""
    wanted = get_peft_model_state_dict(peft)
    skip = tuple(ignore)
    weights = {**{n: w for n, w in wanted.items() if any(part in n for part in skip)}, **weights}
    missing = [n for n in wanted if n not in weights]
    extra = [n for n in weights if n not in wanted]
    shape = [n for n in weights if n in wanted and wanted[n].shape != weights[n].shape]
    for problem, names in (("missing", missing), ("left over", extra), ("of another shape", shape)):
        if names:
            raise IntegrityError(
                where, f"adapter tensors {problem}: {', '.join(names[:3])}", "use its own base model"
            )
    set_peft_model_state_dict(peft, weights)


def base_of(folder: Path) -> str:
    """The base model that a saved adapter belongs to.

    Raises:
        ConfigError: It is not where it was.
    """
    base = str(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    if not Path(base).is_dir():
        raise ConfigError(
            str(folder), f"its base model {base} is gone", "run the recipe again: it is fetched once more"
        )
    return base


def refuse_unmergeable(folder: Path) -> None:
    """Refuse to merge what is no change of weights.

    Raises:
        ConfigError: A saved adapter of virtual tokens.
    """
    config = PeftConfig.from_pretrained(folder)
    if config.is_prompt_learning:
        kind = str(config.peft_type.value).lower()
        what = f"virtual tokens of {kind} are no change of weights"
        raise ConfigError("merge=true", what, "export without merge=true")


def copy_adapter(peft: nn.Module, name: str) -> None:
    """Add a frozen adapter `name` that equals the active one, or make it equal again."""
    assert isinstance(peft, PeftModel)
    learns = learning(peft)
    if name not in peft.peft_config:
        peft.add_adapter(name, peft.peft_config[ACTIVE])
    set_peft_model_state_dict(peft, get_peft_model_state_dict(peft, adapter_name=ACTIVE), adapter_name=name)
    _activate(peft, ACTIVE, learns)
    peft.train(peft.training)  # peft adds modules in training mode, and their dropout would blur the copy


def learning(model: nn.Module) -> set[str]:
    """Names of the parameters that learn."""
    return {name for name, p in model.named_parameters() if p.requires_grad}


def _activate(peft: PeftModel, name: str, learns: set[str]) -> None:
    """Switch; peft makes the adapter it switches to trainable, so what learns is set again."""
    peft.set_adapter(name)
    for n, p in peft.named_parameters():
        p.requires_grad_(n in learns)


@contextmanager
def switched(peft: nn.Module, name: str) -> Iterator[None]:
    """Inside, adapter `name` is active."""
    assert isinstance(peft, PeftModel)
    learns = learning(peft)
    _activate(peft, name, learns)
    try:
        yield
    finally:
        _activate(peft, ACTIVE, learns)


def save(model: nn.Module, folder: Path) -> None:
    """Weights and config: a full model, or the active adapter alone, on the original base."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), selected_adapters=[ACTIVE], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        if INITIAL in model.peft_config:
            restore_base(folder, get_peft_model_state_dict(model, adapter_name=INITIAL))
        _sort_targets(folder / "adapter_config.json")
    else:
        model.save_pretrained(folder)  # type: ignore[operator]


def keep_initial(peft: PeftModel) -> None:
    """Keep the start of an adapter that was taken out of the base's weights; saving needs it."""
    config: Any = peft.peft_config[ACTIVE]
    config.init_lora_weights = True  # else a copy of the adapter would take the same out once more
    copy_adapter(peft, INITIAL)


def restore_base(folder: Path, initial: Mapping[str, torch.Tensor]) -> None:
    """Turn a saved adapter on the rest W - s B0 A0 of a base into one of twice the rank on the base W.

    s B A - s B0 A0 = s [B, -B0] [A; A0], so that plain peft opens it (arXiv:2404.02948).

    Args:
        folder: Of the saved adapter, which is written anew.
        initial: The adapter's tensors as they were before training.
    """
    file, path = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(file)
    for name, w in tensors.items():
        if name.endswith("lora_A.weight"):
            tensors[name] = torch.cat([w, initial[name]])
        elif name.endswith("lora_B.weight"):
            tensors[name] = torch.cat([w, -initial[name]], dim=1)
    save_file(tensors, file, metadata={"format": "pt"})
    fields = json.loads(path.read_text())
    fields["r"] *= 2
    fields["lora_alpha"] *= math.sqrt(2) if fields["use_rslora"] else 2  # the scale s stays
    path.write_text(json.dumps(fields))


def _sort_targets(path: Path) -> None:
    """Peft writes sets in the order that this process's hashes happen to give."""
    fields = json.loads(path.read_text())
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(fields.get(name), list):
            fields[name].sort()
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def verify_saved(folder: Path, trained: dict[str, nn.Parameter]) -> None:
    """Open what was saved and see that it holds as many numbers as were trained.

    Raises:
        IntegrityError: Fewer or empty tensors (a sharded save that went wrong looks like this).
    """
    shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in _shapes(file)}
    empty = sorted(name for name, shape in shapes.items() if 0 in shape)
    if empty:
        raise IntegrityError(
            str(folder), f"{empty[0]} was saved empty", "this is a defect; nothing was replaced"
        )
    saved = sum(math.prod(shape) for shape in shapes.values())
    wanted = sum(p.numel() for p in trained.values())
    if saved < wanted:
        raise IntegrityError(
            str(folder), f"{saved} of {wanted} trained numbers were saved", "nothing was replaced"
        )


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            yield name, tensors.get_slice(name).get_shape()
