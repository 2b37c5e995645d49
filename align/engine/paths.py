"""Which forward a model takes: decided once, when it is opened, by what it is and by a probe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from align.data.types import Response, TokenRow
from align.engine import flat, padded
from align.engine.batch import TokenBatch, pack

# Of the states' norm; float32's rounding stays a hundred times below, another computation far above.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")


def choose(model: PreTrainedModel) -> str | None:
    """Let a model take the flat forward, where that computes what the padded one does.

    Returns:
        None, or why the model takes the padded forward.
    """
    body: Any = model.base_model
    reason = _unfit(body.config)
    if reason is None and not flat.prepare(body):
        reason = f"its attention is {body.config._attn_implementation}"
    if reason is None:
        reason = _difference(body)
    if reason is not None:
        flat.release(body)
    return reason


def _unfit(config: Any) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    dropout = next((name for name in DROPOUTS if getattr(config, name, 0.0)), None)
    return f"{dropout} {getattr(config, dropout):g} thins its attention" if dropout else None


@torch.no_grad()
def _difference(body: Any) -> str | None:
    """Run both on a batch that has everything: several rows, a shared prompt, lengths that differ."""
    batch = pack(_rows(int(body.config.vocab_size)))
    training = body.training
    body.eval()
    try:
        want, got = _all_states(padded, body, batch), _all_states(flat, body, batch)
    except Exception as error:  # a family may stumble over a stream in any way
        return f"a stream is more than it takes ({type(error).__name__})"
    finally:
        body.train(training)
    gap = float((got - want).norm() / want.norm())
    return None if gap <= TOLERANCE[body.dtype] else f"its states differ by {gap:.1e} on a stream"


def _rows(vocabulary: int) -> list[TokenRow]:
    """Two prompts of 5 and 3 tokens with two answers each, of 4, 2, 1 and 6."""
    tokens = iter((7 * i + 3) % vocabulary for i in range(1000))

    def text(length: int) -> tuple[int, ...]:
        return tuple(next(tokens) for _ in range(length))

    def row(name: str, prompt: int, *answers: int) -> TokenRow:
        responses = tuple(Response(text(n), (1.0,) * n) for n in answers)
        return TokenRow(name, text(prompt), responses)

    return [row("a", 5, 4, 2), row("b", 3, 1, 6)]


def _all_states(path: Any, body: Any, batch: TokenBatch) -> Tensor:
    """[tokens, D] of every token of every sequence."""
    sequence = torch.repeat_interleave(torch.arange(batch.sequences), batch.lengths)
    at = torch.cat([torch.arange(int(length)) for length in batch.lengths])
    states: Tensor = path.hidden_states(body, batch)
    return states[path.index(batch, sequence, at).to(states.device)]
