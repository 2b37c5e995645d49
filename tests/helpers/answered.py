"""Answers as scorers are given them."""

from __future__ import annotations

from typing import Any

from align.data.types import Message, Response, TokenRow
from align.reward.types import Answered

EOS = 2


def answered(text: str = "", *, name: str = "p/0", tokens: int = 1, **facts: Any) -> Answered:
    """An answer of `tokens` tokens, all of them 5, with EOS behind, to the prompt "q" of tokens 3 and 4."""
    ids = (*[5] * tokens, EOS)
    row = TokenRow(name, (3, 4), (Response(ids, (1.0,) * len(ids)),))
    return Answered(name, (Message("user", "q"),), text, row, True, facts)
