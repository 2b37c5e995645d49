"""The reward stage around its training: which rankings it learns from, and what it is measured on."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from align.config.stages import RewardOptions
from align.data.types import Dataset, Message, Ranking
from align.engine.batch import Budget, TokenBatch
from align.errors import DataError
from align.stages import reward
from align.stages.reward import Reward

EOS = 2
WORDS = {"a": 10, "b": 11, "c": 12, "d": 13, "e": 14}


class Template:
    """A token for each letter, EOS behind an answer."""

    eos_id, opening, escaped = EOS, 1, 0

    def encode_prompt(self, messages: tuple[Message, ...]) -> list[int]:
        """Letters of the last turn."""
        return [WORDS[letter] for letter in messages[-1].content]

    def encode_answer(self, text: str) -> list[int]:
        """Letters and EOS."""
        return [*(WORDS[letter] for letter in text), EOS]


def ranking(name: str, answers: tuple[str, ...], tiers: tuple[int, ...]) -> Ranking:
    return Ranking(name, (Message("user", "a" * (1 + len(answers[0]))),), answers, tiers, (), "s")


ROWS = {
    "train": [ranking("many", ("a", "b", "c", "d"), (0, 0, 1, 2)), ranking("few", ("b", "a"), (0, 1))],
    # The second and the third answer of one tier are equal once they are cut to three tokens.
    "test": [
        ranking("cut", ("d", "aba", "abc"), (0, 1, 1)),
        ranking("long", ("eeee", "a"), (1, 0)),
        ranking("short", ("b", "c"), (0, 1)),
    ],
}


def made(monkeypatch: pytest.MonkeyPatch, rows: dict[str, list[Ranking]], **given: Any) -> Reward:
    """The stage on these rows, not yet prepared; `given` are options."""

    def load(data: Any, expect: str, split: str, **_: Any) -> Dataset[Ranking]:
        assert (data, expect) == ("rankings", "rankings")
        return Dataset("x", list(rows[split]), {})

    monkeypatch.setattr(reward.cards, "load", load)
    monkeypatch.setattr(reward, "load_template", lambda base, name: Template())
    options = RewardOptions(
        kind="reward", data="rankings", max_answers=3, max_answer=3, max_prompt=16, epochs=3, batch_size=1,
        tokens_per_microbatch=16, **given
    )  # fmt: skip
    recipe = SimpleNamespace(model=SimpleNamespace(template=None), adapter=None)
    ctx: Any = SimpleNamespace(
        options=options, recipe=recipe, base="base", name="rm", seed=4, dtype="float32", reporter=Mock()
    )
    return Reward(ctx)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Reward:
    found = made(monkeypatch, ROWS)
    assert found.prepare() == 3 * 2, "epochs over the training rankings, a step each"
    return found


def test_rankings_are_thinned_and_learned_from_by_part(stage: Reward) -> None:
    train = {row.id: row for row in stage.tokens["train"].rows}
    assert train["many"].tiers == (0, 1, 2), "three answers, one of each tier"
    assert [r.ids for r in train["many"].responses] == [(10, EOS), (12, EOS), (13, EOS)]
    assert train["few"].tiers == (0, 1)
    assert [row.id for row in stage.tokens["test"].rows] == ["cut", "long", "short"]


def test_a_margin_of_rankings_without_ratings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as error:
        made(monkeypatch, ROWS, margin=0.5).prepare()
    assert str(error.value) == (
        "stages.rm.margin: 0.5 scales differences of ratings, and x has no ratings; "
        "give rankings by ratings, or try stages.rm.margin=0"
    )


@pytest.mark.parametrize("rated", [1, 2])
def test_rankings_that_a_margin_passes_over_are_counted(monkeypatch: pytest.MonkeyPatch, rated: int) -> None:
    many, few = ROWS["train"]
    train = [replace(many, ratings=(3.0, 3.0, 2.0, 1.0)), few]
    if rated == 2:
        train[1] = replace(few, ratings=(5.0, 4.0))
    found = made(monkeypatch, {**ROWS, "train": train}, margin=0.5)
    found.prepare()
    said = [call.args[0] for call in found.ctx.reporter.warn.call_args_list]  # type: ignore[attr-defined]
    line = "1 of 2 rankings have no ratings, and stages.rm.margin gives them no margin"
    assert said == ([line] if rated == 1 else [])


def test_it_is_measured_on_held_out_rankings_with_the_answers_it_scored(
    stage: Reward, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(batch: TokenBatch) -> Any:
        """A score names the answer's first token."""
        return batch.ids[batch.spans[:, 2]].float()

    model = SimpleNamespace(
        plain=SimpleNamespace(dtype=torch.float32),
        scores=scores,
        steps=None,
        save=lambda out: None,
        sizes=lambda: {"parameters": 7},
        budget=lambda tokens: Budget(16),
    )
    seen: list[Any] = []
    monkeypatch.setattr(reward, "fresh_reward_model", lambda *a, **k: model)
    monkeypatch.setattr(reward, "fit_head", lambda *a: 1.0)
    monkeypatch.setattr(stage, "_fit", lambda model, rows: 6)
    monkeypatch.setattr(reward.quality, "report", lambda *a, seed: seen.append((*a, seed)))
    stage.ctx.reporter = SimpleNamespace(note=lambda text: None)  # type: ignore[assignment]
    summary = stage.run(None)  # type: ignore[arg-type]
    assert (summary["steps"], summary["rows"], summary["answers"]) == (6, 2, 5)
    train, held_out, found, seed = seen[0]
    assert (seed, [row.id for row in train]) == (4, ["many", "few"])
    assert [len(row.answers) for row in train] == [3, 2]
    told = [([WORDS[text[0]] for text in row.answers], row.tiers) for row in held_out]
    assert [list(one) for one in found] == [letters for letters, _ in told]
    assert [(row.id, row.answers, row.tiers) for row in held_out] == [
        ("cut", ("d", "aba"), (0, 1)),
        ("long", ("eeee", "a"), (1, 0)),
        ("short", ("b", "c"), (0, 1)),
    ]
