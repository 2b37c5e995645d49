"""Which forward a model takes, and that the probe sees what would come out wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from align.engine import flat, paths
from align.engine.attention import Layout, Segment

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2,
}  # fmt: skip


def llama(**options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, **options))
    return model.eval()


def test_a_decoder_takes_streams() -> None:
    model = llama()
    assert paths.choose(model) is None
    assert flat.is_prepared(model.base_model)
    assert paths.choose(model) is None, "asked twice, it says the same"


def test_dropout_of_attention_takes_the_padded_forward() -> None:
    model = llama(attention_dropout=0.1)
    assert paths.choose(model) == "attention_dropout 0.1 thins its attention"
    assert not flat.is_prepared(model.base_model)
    gpt2 = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=31))
    assert paths.choose(gpt2) == "attn_pdrop 0.1 thins its attention"


def test_an_encoder_decoder_takes_the_padded_forward() -> None:
    config = T5Config(vocab_size=31, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, dropout_rate=0.0)
    assert paths.choose(T5ForConditionalGeneration(config)) == "it is an encoder-decoder"


def test_a_state_space_model_is_found_out_by_the_probe() -> None:
    """It carries a state along the stream, across the borders of sequences."""
    config = MambaConfig(vocab_size=31, hidden_size=16, num_hidden_layers=1, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    reason = paths.choose(model)
    assert reason is not None
    assert not flat.is_prepared(model.base_model)


def test_a_stream_that_comes_out_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = flat.layout

    def leaking(spans: torch.Tensor) -> Layout:
        """The last sequence sees the first prompt too."""
        how = right(spans)
        last = how.segments[-1]
        return Layout(
            (*how.segments[:-1], Segment(last.start, last.end, last.begin, (0, last.prefix[1]))), how.depths
        )

    monkeypatch.setattr(flat, "layout", leaking)
    model = llama()
    reason = paths.choose(model)
    assert reason is not None
    assert reason.startswith("its states differ by ")
    assert not flat.is_prepared(model.base_model)


def test_a_model_is_left_in_the_mode_it_was_in() -> None:
    model = llama().train()
    paths.choose(model)
    assert all(module.training for module in model.modules())


def test_a_stream_that_comes_out_as_no_number_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = flat.hidden_states
    monkeypatch.setattr(flat, "hidden_states", lambda body, batch: right(body, batch) * float("nan"))
    model = llama()
    assert paths.choose(model) == "its states differ by nan on a stream"
    assert not flat.is_prepared(model.base_model)


def test_another_attention_than_the_stock_ones_takes_the_padded_forward() -> None:
    config = SimpleNamespace(_attn_implementation="flash_attention_2")
    body: Any = SimpleNamespace(config=config)
    model: Any = SimpleNamespace(base_model=body)
    assert paths.choose(model) == "its attention is flash_attention_2"
    assert config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("name", ["attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"])
def test_dropout_of_attention_under_each_of_its_names(name: str) -> None:
    config = SimpleNamespace(_attn_implementation="sdpa", **{name: 0.25})
    model: Any = SimpleNamespace(base_model=SimpleNamespace(config=config))
    assert paths.choose(model) == f"{name} 0.25 thins its attention"


def test_other_dropout_does_not_blur_the_probe() -> None:
    config = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=31, attn_pdrop=0.0, resid_pdrop=0.5, embd_pdrop=0.5
    )
    assert paths.choose(AutoModelForCausalLM.from_config(config).train()) is None
