"""The flat forward: each unique token once, through the stock model of transformers.

A stream [1, N] goes through embeddings, norms and linear layers as it is, with `position_ids` = depth in the
trie. Only attention has to know which tokens belong together; it enters through transformers' own
`AttentionInterface`, so no model is forked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from align.engine.attention import Form, layout
from align.engine.batch import TokenBatch

PREFIX = "align_"
PLAIN = ("sdpa", "eager")  # what a model uses for everything that is no stream
_streaming = False


class Attends(Protocol):
    """What knows which tokens of a stream belong together."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, form: Form) -> Tensor:
        """Attention of one layer; those of a model follow one another.

        Args:
            q: [H, N, E] queries of H heads.
            k: [G, N, E] keys, G heads of which each serves H / G heads of queries.
            v: [G, N, E] values.
            form: Scale, window and cap.

        Returns:
            [H, N, E].
        """


def prepare(body: nn.Module) -> bool:
    """Let the model's attention take streams; anything else it computes as before.

    Returns:
        Whether it can: its attention is one of `PLAIN`, and not prepared yet or prepared before.
    """
    config: Any = body.config
    name = config._attn_implementation.removeprefix(PREFIX)
    if name in PLAIN:
        config._attn_implementation = PREFIX + name
    return name in PLAIN


def is_prepared(body: nn.Module) -> bool:
    """Whether the model takes streams."""
    name: str = body.config._attn_implementation  # type: ignore[union-attr,assignment]
    return name.startswith(PREFIX)


def release(body: nn.Module) -> None:
    """Undo `prepare`."""
    config: Any = body.config
    config._attn_implementation = config._attn_implementation.removeprefix(PREFIX)


def hidden_states(body: nn.Module, batch: TokenBatch) -> Tensor:
    """[N, D] last hidden states of the model without its head, in the stream's order."""
    how = layout(batch.spans)
    return run(body, batch.ids, how.depths, how)


def run(body: nn.Module, ids: Tensor, depths: Tensor, how: Attends) -> Tensor:
    """[N, D] last hidden states of a stream.

    Args:
        body: A prepared model without its head.
        ids: [N] tokens.
        depths: [N] position of each in its sequence.
        how: Its attention.
    """
    device = next(body.parameters()).device
    with _stream():
        out: Tensor = body(
            input_ids=ids[None].to(device),
            position_ids=depths[None].to(device),
            use_cache=False,
            align_layout=how,
        ).last_hidden_state
    return out[0]


def index(batch: TokenBatch, sequence: Tensor, at: Tensor) -> Tensor:
    """Rows of `hidden_states` for (sequence, index within the sequence)."""
    a, b, c, _ = batch.spans[sequence].unbind(1)
    prompt = b - a
    return torch.where(at < prompt, a + at, c + at - prompt)


@contextmanager
def _stream() -> Iterator[None]:
    """While it runs, models build no mask. Checkpointed layers run again later, but their mask is kept."""
    global _streaming
    _streaming = True
    try:
        yield
    finally:
        _streaming = False


def _attention(
    plain: str,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    align_layout: Attends | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if align_layout is None:
        return _plain(plain, module)(module, query, key, value, attention_mask, *args, **kwargs)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    form = Form(scale, kwargs.get("sliding_window"), kwargs.get("softcap"))
    out = align_layout.attend(query[0], key[0], value[0], form).to(query.dtype)
    return out.transpose(0, 1)[None].contiguous(), None


def _plain(name: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention that the model would use by itself."""
    if name == "eager":
        found: Any = sys.modules[type(module).__module__].eager_attention_forward
        return found  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


def _mask(plain: str, *args: Any, **kwargs: Any) -> Tensor | None:
    return None if _streaming else ALL_MASK_ATTENTION_FUNCTIONS[plain](*args, **kwargs)


for _name in PLAIN:
    AttentionInterface.register(PREFIX + _name, partial(_attention, _name))
    AttentionMaskInterface.register(PREFIX + _name, partial(_mask, _name))
