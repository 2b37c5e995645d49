"""Useful FLOPs: the arithmetic that no trainer can leave out.

A matrix of n weights costs 2 n FLOPs a token forward, 2 n for the gradient of its input and 2 n for its own,
which frozen weights do not need: 6 n in full fine-tuning, 4 n under an adapter. Attention, norms and the
adapter itself are left out, as are padding, prompts computed twice and heads at positions without a score:
what a trainer spends on those lowers its fraction of the peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from benchmarks.rows import Row

BLOCKS = (".layers.", ".h.")  # of a decoder, in the names of its weights
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight")


@dataclass(frozen=True)
class Sizes:
    """Weights of a model.

    Attributes:
        blocks: In the matrices of the decoder's layers.
        head: Vocabulary times hidden size.
    """

    blocks: int
    head: int


def sizes(shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """The sizes of a checkpoint.

    Args:
        shapes: Name -> shape of its tensors.

    Raises:
        ValueError: No embedding or no layers are among them.
    """
    blocks = sum(prod(s) for name, s in shapes.items() if len(s) == 2 and any(b in name for b in BLOCKS))
    head = next((prod(s) for name, s in shapes.items() if name.endswith(EMBEDDINGS)), 0)
    if not blocks or not head:
        raise ValueError("the checkpoint's layers or its embedding have names that are not known")
    return Sizes(blocks, head)


def useful(stage: str, adapter: str, model: Sizes, rows: Iterable[Row], *, reference: bool = False) -> float:
    """FLOPs of one pass over rows, every prompt computed once.

    Args:
        stage: sft, reward or dpo.
        adapter: full or lora.
        model: Its sizes.
        rows: What is trained on.
        reference: The reference's log-probs are computed within the pass (dpo).
    """
    rows = list(rows)
    unique = sum(row.unique for row in rows)
    scored = 0 if stage == "reward" else sum(row.scored for row in rows)
    once = model.blocks * unique + model.head * scored
    passes = 6 if adapter == "full" else 4
    return float((passes + 2 * reference) * once)


def sampled(model: Sizes, rows: Iterable[Row], answers: Sequence[Sequence[int]]) -> float:
    """FLOPs of sampling an answer to each row: a forward of all tokens but the last, the head once a token.

    Args:
        model: Its sizes.
        rows: Their prompts are answered.
        answers: Tokens of each.
    """
    tokens = sum(map(len, answers))
    entered = sum(len(row.prompt) for row in rows) + tokens - len(answers)
    return float(2 * (model.blocks * entered + model.head * tokens))
