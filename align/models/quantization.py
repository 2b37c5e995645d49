"""The linear layers of a frozen base in 4 bits, through bitsandbytes (QLoRA, arXiv:2305.14314).

Weights are rounded when the base is read, and multiplied in the model's dtype. Embeddings, norms and heads
stay as they are, and what is saved is the adapter alone, on the original base.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from align.config.schema import Dtype, Quantization
from align.models.adapter_configs import blocks_fit


def arguments(quantization: Quantization | None, dtype: Dtype) -> dict[str, Any]:
    """What `from_pretrained` is given for it; nothing where weights stay as they are."""
    if quantization is None:
        return {}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,  # the scales of blocks are rounded as well
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    # Without a map, transformers would put this model, and no other, on a GPU that it finds.
    return {"quantization_config": config, "device_map": {"": "cpu"}}


def settle(model: PreTrainedModel) -> None:
    """Make a model that was read with `arguments` fit to train, and its config that of the original base."""
    from bitsandbytes.nn import Linear4bit

    blocks_fit(model)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # On a CPU with bfloat16, a forward without gradients would repack the weights for a product that
            # has none, and training would go on without them.
            module.support_avx512bf16_for_cpu = False
    del model.config.quantization_config  # an artifact's config would ask for bitsandbytes


def on_disk(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor as it was before it was rounded, which hides one that is not finite."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)


def numbers(parameter: nn.Parameter) -> int:
    """How many weights a parameter holds; of those in 4 bits, torch counts the bytes."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())
