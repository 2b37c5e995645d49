"""Adapters through peft: attach, load, switch, save, and see that what was saved is complete."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from align.config.schema import ALL_LINEAR, LoraAdapter
from align.errors import ConfigError, IntegrityError

ACTIVE = "default"


def is_peft(model: nn.Module) -> bool:
    """True where adapters are attached."""
    return isinstance(model, PeftModel)


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


def check_targets(base: Path, options: LoraAdapter) -> None:
    """See that a model has the modules to adapt, without reading its weights.

    Raises:
        ConfigError: A target that names no module.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    targets_of(model, options)


def attach(
    model: PreTrainedModel,
    options: LoraAdapter,
    task: str,
    base: Path,
    seed: int,
    *,
    layers: list[int] | None = None,
) -> PeftModel:
    """A new adapter; its random half depends on the seed alone.

    Args:
        model: The plain model.
        options: Rank, targets and the like.
        task: peft's task type; SEQ_CLS trains and saves the score head too.
        base: Written into the adapter's config as the model it belongs to.
        seed: Of the random half.
        layers: Numbers of the layers to adapt; overrides `options.top_layers`.

    Raises:
        ConfigError: A target that names no module.
    """
    targets = targets_of(model, options)
    count = len(decoder_layers(model))
    if options.top_layers is not None and options.top_layers > count:
        raise ConfigError(
            "adapter.top_layers", f"{options.top_layers} is above the model's {count} layers", "lower it"
        )
    if layers is None and options.top_layers:
        layers = list(range(count - options.top_layers, count))
    config = LoraConfig(
        task_type=TaskType[task],
        r=options.r,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        use_dora=options.kind == "dora",
        target_modules=targets,
        layers_to_transform=layers,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
        base_model_name_or_path=str(base),
    )
    return _with_seed(seed, lambda: get_peft_model(model, config))


def layer_of(name: str) -> int | None:
    """Number of the decoder layer that a parameter belongs to, from its name."""
    found = re.search(r"\.(?:layers|h)\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _with_seed(seed: int, build: Any) -> Any:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        return build()
    finally:
        torch.set_rng_state(state)


def load(model: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """An adapter from an artifact; every one of its tensors finds its place.

    Raises:
        IntegrityError: Tensors missing, left over, or of another shape.
    """
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = not trainable
    peft = get_peft_model(model, config)
    fill(peft, load_peft_weights(str(folder), device="cpu"), str(folder))
    return peft


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
    """Weights and config: a full model, or the active adapter alone."""
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder), selected_adapters=[ACTIVE], save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        _sort_targets(folder / "adapter_config.json")
    else:
        model.save_pretrained(folder)  # type: ignore[operator]


def _sort_targets(path: Path) -> None:
    """Peft writes a set in the order that this process's hashes happen to give."""
    fields = json.loads(path.read_text())
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()
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
