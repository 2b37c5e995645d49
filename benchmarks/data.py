"""Models and token rows: what every side is given, made once through Align's own cards and tokenising."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter
from safetensors import safe_open

from align.config.base import DataRef
from align.config.schema import AnyModel, PathModel, TinyModel
from align.config.source import RECIPES
from align.data import cards, tokenize
from align.data.order import epoch_order
from align.data.rankings import thin
from align.data.types import Ranking, TokenRow
from align.models.policy import load_template
from align.models.sources import materialise
from benchmarks.flops import Sizes, sizes
from benchmarks.rows import Row

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ALIGN_SHARED", ROOT.parent / "shared"))
PAIRS = DataRef(card="hh_rlhf", path=str(SHARED / "data/hh-rlhf/harmless-base-dev.jsonl"))
RANKINGS = DataRef(card="oasst_rankings", path=str(SHARED / "data/oasst-en100/trees.jsonl"))
CONVERSATIONS = DataRef(card="self_instruct", path=str(SHARED / "data/self-instruct/seed_tasks.jsonl"))
MAX_PROMPT = MAX_ANSWER = 512  # tokens, the default of every stage
SMALL = TinyModel(kind="tiny", hidden=256, layers=6, heads=4)  # 4 million parameters
SEED = 0
ANSWERS = 4


def model(name: str) -> AnyModel:
    """A model by name.

    Args:
        name: `small`, one of `align/recipes/model`, or a folder.
    """
    if name == "small":
        return SMALL
    if Path(name).is_dir():
        return PathModel(kind="path", path=name)
    text = (RECIPES / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    found: AnyModel = TypeAdapter(AnyModel).validate_python(yaml.safe_load(text))
    return found


class Checkpoint:
    """A model on disk with what the sides must know of it.

    Attributes:
        folder: Plain Hugging Face folder.
        template: Name of its chat template.
        pad: Token that pads and is never EOS.
        sizes: Of its layers and its head.
    """

    def __init__(self, name: str) -> None:
        source = model(name)
        self.folder, self.template = materialise(source), source.template
        self.tokens = load_template(self.folder, self.template)
        self.pad = self.tokens.pad_id
        self.sizes = _sizes(self.folder)

    def rows(self, kind: str) -> list[Row]:
        """Rows of a kind in a random order that is always the same.

        Args:
            kind: conversations, pairs or rankings (of 4 answers, without ties); prompts are those of pairs.

        Raises:
            DataError: The data is not in $ALIGN_SHARED.
        """
        found = {
            "conversations": self._conversations,
            "pairs": self._pairs,
            "prompts": self._pairs,
            "rankings": self._rankings,
        }[kind]()
        return [_row(found[i]) for i in epoch_order(SEED, 0, len(found))]

    def _conversations(self) -> list[TokenRow]:
        data = cards.load(CONVERSATIONS, "conversations", "train", max_drop=1.0)
        return tokenize.conversations(data, self.tokens, **LIMITS).rows

    def _pairs(self) -> list[TokenRow]:
        data = cards.load(PAIRS, "rankings", "train", max_drop=1.0)
        data.rows = [
            replace(row, answers=row.best_and_worst(), tiers=(0, 1), ratings=()) for row in data.rows
        ]
        return tokenize.rankings(data, self.tokens, **LIMITS).rows

    def _rankings(self) -> list[TokenRow]:
        data = cards.load(RANKINGS, "rankings", "train", max_drop=1.0)
        data.rows = [thin(row, ANSWERS) for row in data.rows if _has_tiers(row)]
        rows = tokenize.rankings(data, self.tokens, **LIMITS).rows
        return [row for row in rows if len(set(row.tiers)) == len(row.tiers) == ANSWERS]

    def ends(self) -> tuple[int, ...]:
        """EOS and every token with a line break: they end rollouts, whose lengths then differ as in chats."""
        vocabulary = range(len(self.tokens.tokenizer))
        lines = (token for token in vocabulary if "\n" in self.tokens.decode([token]))
        return (self.tokens.eos_id, *lines)


LIMITS: dict[str, Any] = {"max_prompt": MAX_PROMPT, "max_answer": MAX_ANSWER, "max_drop": 1.0}


def _has_tiers(row: Ranking) -> bool:
    return len(set(row.tiers)) >= ANSWERS


def _row(row: TokenRow) -> Row:
    return Row(
        row.id,
        row.prompt,
        tuple(response.ids for response in row.responses),
        tuple(response.weights for response in row.responses),
        row.tiers,
    )


def _sizes(folder: Path) -> Sizes:
    shapes: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            shapes.update({name: tensors.get_slice(name).get_shape() for name in tensors.keys()})  # noqa: SIM118
    return sizes(shapes)
