"""Small random models of every family that the flat engine is tested on."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MANY = {**SIZES, "num_key_value_heads": 4}
WINDOW = {"head_dim": 8, "sliding_window": 6}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-untied-biased": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-tied-mha": LlamaConfig(**MANY, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mistral-windowed": MistralConfig(**SIZES, sliding_window=6),
    "gemma2": Gemma2Config(**SIZES, **WINDOW, final_logit_softcapping=None, attn_logit_softcapping=0.5),
    "gemma3": Gemma3TextConfig(**SIZES, **WINDOW),
    "phi": PhiConfig(**MANY),
    "gpt2": GPT2Config(
        vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2,
        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    ),
    "gpt-neox": GPTNeoXConfig(**{n: v for n, v in SIZES.items() if n != "num_key_value_heads"}),
    "olmo2": Olmo2Config(**SIZES),
    "smollm3": SmolLM3Config(**SIZES),
}  # fmt: skip


def build(name: str) -> PreTrainedModel:
    """A random model, whatever its family would begin with."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name])
    with torch.no_grad():
        for p in model.parameters():  # away from zeros and ones, so that every weight counts
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()
