"""A prompt that an evaluation holds out is trained on nowhere in the recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.config.schema import Recipe
from align.data import cards
from align.pipeline.leaks import leaks

CARD = """---
name: {name}
kind: {kind}
source: {{type: file, path: {name}.jsonl}}
reader: own
split: {{test: {test}, salt: {salt}}}
licence: my own
---
Written for a test.
"""
QUESTIONS = [f"question {i}" for i in range(10)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder of cards: asked (half held out), talks (nothing), ranked (split as asked)."""
    monkeypatch.setattr(cards, "_folders", list(cards._folders))
    cards.add_folder(tmp_path)
    write(tmp_path, "asked", "prompts", "0.5", "a", [{"prompt": q} for q in QUESTIONS])
    talks = [{"prompt": q, "completion": "c"} for q in [*QUESTIONS, "another"]]
    write(tmp_path, "talks", "conversations", "0", "b", talks)
    ranked = [{"prompt": q, "chosen": "x", "rejected": "y"} for q in QUESTIONS]
    write(tmp_path, "ranked", "rankings", "0.5", "a", ranked)
    yield tmp_path
    cards._find.cache_clear()


def write(folder: Path, name: str, kind: str, test: str, salt: str, rows: list[dict[str, str]]) -> None:
    (folder / f"{name}.md").write_text(CARD.format(name=name, kind=kind, test=test, salt=salt))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(sft: str, judge: str | None = None) -> Recipe:
    stages: dict[str, Any] = {
        "sft": {"kind": "sft", "model": "base", "data": sft},
        "rm": {"kind": "reward", "model": "sft", "data": "ranked"},
        "eval": {"kind": "evaluate", "policies": ["sft"], "reward": "rm", "prompts": "asked", "judge": judge},
    }
    fixed = {"recipe": "r", "model": {"kind": "tiny"}, "adapter": {"kind": "none"}, "hardware": {}}
    return Recipe.model_validate({**fixed, "stages": stages})


@pytest.mark.usefixtures("folder")
def test_a_prompt_trained_on_and_measured_is_refused() -> None:
    held_out = sorted(prompt.messages[0].content for prompt in cards.load("asked", "prompts", "test"))
    (error,) = leaks(recipe("talks"))
    assert str(error) == (
        f"stages.eval.prompts: eval measures on {len(held_out)} prompts that sft trains on: "
        f"{held_out[0]!r}...; give their cards one split (test and salt), or leave a source out"
    )


def test_one_split_cannot_leak(folder: Path) -> None:
    write(folder, "same", "conversations", "0.5", "a", [{"prompt": q, "completion": "c"} for q in QUESTIONS])
    assert leaks(recipe("same")) == []


def test_one_split_cannot_leak_by_a_source_of_a_single_row(folder: Path) -> None:
    held_out = cards.load("asked", "prompts", "test").rows[0].messages[0].content
    write(folder, "single", "conversations", "0.5", "a", [{"prompt": held_out, "completion": "c"}])
    assert leaks(recipe("single")) == []
    assert (cards.openings("single", "train"), cards.openings("single", "test")) == (set(), {held_out})


def test_other_prompts_under_another_split_are_fine(folder: Path) -> None:
    write(folder, "others", "conversations", "0", "b", [{"prompt": "else", "completion": "c"}])
    assert leaks(recipe("others")) == []


def test_the_judge_learns_too(folder: Path) -> None:
    write(folder, "same", "conversations", "0.5", "a", [{"prompt": q, "completion": "c"} for q in QUESTIONS])
    ranked = [{"prompt": q, "chosen": "x", "rejected": "y"} for q in QUESTIONS]
    write(folder, "judged", "rankings", "0", "b", ranked)
    (error,) = leaks(recipe("same", judge="judged"))
    assert "prompts that eval trains on" in str(error)
