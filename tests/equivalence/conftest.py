"""The base model of the comparisons with TRL, and a cache of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl_sides import EOS, HIDDEN, PAD, VOCABULARY

from align.models.tiny import build_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs under a reference are kept between stages, and are to be computed here."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama, its weights wide enough for each part to matter."""
    folder = tmp_path_factory.mktemp("base")
    tokens = build_tokenizer(VOCABULARY)
    assert tokens.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [PAD, EOS]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.15,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        # As the pad token it is 0 in a new model, where RMSNorm would blow its gradient up.
        model.model.embed_tokens.weight[EOS].normal_(std=0.15)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
