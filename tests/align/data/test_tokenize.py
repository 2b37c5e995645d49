"""Cutting, dropping and counting, worked out on a tokenizer with one token per letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from align.data import tokenize
from align.data.template import ChatTemplate
from align.data.types import (
    Conversation,
    Dataset,
    Labelled,
    Message,
    Prompt,
    Ranking,
    Response,
    Stepwise,
    TokenRow,
)
from align.errors import DataError
from align.models.tiny import build_tokenizer
from align.training.checks import last_label_is_eos

EOS = 0
ESCAPED = "special tokens in texts, encoded as plain text"


class Letters:
    """A template with one token per letter and EOS 0; a prompt opens with 1 and closes with 2."""

    eos_id = EOS
    opening = 1
    escaped = 0

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """1 letters 2."""
        return [1, *(ord(c) for m in messages for c in m.content), 2]

    def encode_answer(self, text: str) -> list[int]:
        """Letters, EOS."""
        return [*map(ord, text), EOS]

    def encode_steps(self, steps: Sequence[str], separator: str) -> list[list[int]]:
        """Letters, separator."""
        return [[*map(ord, step + separator)] for step in steps]

    def encode_conversation(
        self, messages: Sequence[Message], *, every: bool = False
    ) -> tuple[list[int], list[float]]:
        """Prompt and answer."""
        prompt, answer = self.encode_prompt(messages[:-1]), self.encode_answer(messages[-1].content)
        return [*prompt, *answer], [0.0] * len(prompt) + [messages[-1].weight] * len(answer)


LETTERS: Any = Letters()
LIMITS: dict[str, Any] = {"max_prompt": 6, "max_answer": 4, "max_drop": 0.0}


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def chat(name: str, prompt: str, answer: str, weight: float = 1.0) -> Conversation:
    return Conversation(name, (*ask(prompt), Message("assistant", answer, weight)), source="s")


def test_a_cut_conversation_keeps_eos_untrained() -> None:
    data = Dataset("d", [chat("a", "hi", "yes"), chat("b", "hi", "yesss")])
    out = tokenize.conversations(data, LETTERS, **LIMITS)
    short, long = (row.responses[0] for row in out.rows)
    assert short.ids == (*map(ord, "yes"), EOS)
    assert short.weights == (1, 1, 1, 1)
    assert long.ids == (*map(ord, "yes"), EOS)
    assert long.weights == (1, 1, 1, 0), "a model must not learn to stop in the middle of a sentence"
    assert out.cut == {"answers cut to max_answer 4; EOS is put back but not trained": 1, ESCAPED: 0}
    assert out.rows[0].source == "s"


def test_a_long_prompt_loses_its_middle() -> None:
    out = tokenize.prompts(Dataset("d", [Prompt("a", ask("abcdefg"))]), LETTERS, max_prompt=6, max_drop=0.0)
    assert out.rows[0].prompt == (1, ord("a"), ord("b"), ord("f"), ord("g"), 2)
    assert out.notes == ["d: 1 prompts cut to max_prompt 6, in 1 rows"]
    odd = tokenize.prompts(Dataset("d", [Prompt("a", ask("abcdefg"))]), LETTERS, max_prompt=5, max_drop=0.0)
    assert odd.rows[0].prompt == (1, ord("a"), ord("f"), ord("g"), 2)


def test_rankings_keep_their_order_and_score_every_token() -> None:
    row = Ranking("a", ask("hi"), ("no", "yes", "maybe"), (1, 0, 2), (0.5, 1.0, 0.0), "s")
    out = tokenize.rankings(Dataset("d", [row]), LETTERS, **LIMITS)
    (got,) = out.rows
    assert [r.ids for r in got.responses] == [
        (*map(ord, "no"), EOS), (*map(ord, "yes"), EOS), (*map(ord, "may"), EOS),
    ]  # fmt: skip
    assert [r.weights for r in got.responses] == [(1,) * 3, (1,) * 4, (1, 1, 1, 0)], (
        "a cut answer ends untrained"
    )
    assert (got.tiers, got.ratings) == ((1, 0, 2), (0.5, 1.0, 0.0))


def test_a_labelled_answer_keeps_its_label() -> None:
    data = Dataset("d", [Labelled("a", ask("hi"), "no", False, "s"), Labelled("b", ask("hi"), "maybe", True)])
    out = tokenize.unpaired(data, LETTERS, **LIMITS)
    prompt, no, may = (1, *map(ord, "hi"), 2), (*map(ord, "no"), EOS), (*map(ord, "may"), EOS)
    assert out.rows == [
        TokenRow("a", prompt, (Response(no, (1.0, 1.0, 1.0)),), desirable=False, source="s"),
        TokenRow("b", prompt, (Response(may, (1.0, 1.0, 1.0, 0.0)),), desirable=True),
    ]
    assert out.cut["answers cut to max_answer 4; EOS is put back but not trained"] == 1


def test_steps_are_scored_at_their_separator() -> None:
    rows = [
        Stepwise("a", ask("hi"), ("no", "y"), (0.0, 1.0), "s"),
        Stepwise("long", ask("hi"), ("yes", "n;o", "x"), (1.0, 0.5, 0.0)),
        Stepwise("longer", ask("hi"), ("much too long", "x"), (1.0, 0.0)),
        Stepwise("none", ask("hi"), ("no", " ; "), (1.0, 0.0)),
    ]
    out = tokenize.stepwise(Dataset("d", rows), LETTERS, ";", max_prompt=9, max_answer=9, max_drop=0.5)
    first, cut = out.rows
    assert first.responses[0].ids == (*map(ord, "no;y;"), EOS)
    # The state before the token with a weight is read: that of the separator.
    assert first.responses[0].weights == (0, 0, 0, 1, 0, 1)
    assert (first.step_labels, first.source) == ((0.0, 1.0), "s")
    assert cut.responses[0].ids == (*map(ord, "yes;n;o;"), EOS)
    assert cut.responses[0].weights == (0, 0, 0, 0, 1, 0, 0, 0, 1)
    assert cut.step_labels == (1.0, 0.5)
    assert out.cut["steps behind max_answer 9, left out"] == 1
    assert out.cut["steps that hold the separator, where a sampled answer would be cut"] == 1
    assert out.dropped == {
        "have a first step longer than max_answer": 1,
        "have a step that is nothing but the separator": 1,
    }


def test_answers_that_became_equal_are_left_out_with_their_order() -> None:
    rows = [
        Ranking("pair", ask("q"), ("yess", "yesterday"), (0, 1)),  # equal after the cut, of different tiers
        Ranking("three", ask("q"), ("yess", "yesterday", "no"), (0, 1, 2)),  # one answer is left
        Ranking(
            "tie", ask("q"), ("yes", "yes", "no"), (0, 0, 1), (1.0, 1.0, 0.0)
        ),  # equal and tied: kept once
    ]
    out = tokenize.rankings(Dataset("d", rows), LETTERS, max_prompt=9, max_answer=4, max_drop=0.7)
    assert [row.id for row in out.rows] == ["tie"]
    assert out.rows[0].tiers == (0, 1)
    assert out.rows[0].ratings == (1.0, 0.0)
    assert out.rows[0].places == (0, 2), "the report scores the texts of the answers that were kept"
    assert out.dropped == {"are left with fewer than two different tiers": 2}
    with pytest.raises(DataError) as error:
        tokenize.rankings(Dataset("d", rows), LETTERS, max_prompt=9, max_answer=4, max_drop=0.5)
    assert str(error.value) == (
        "d: 2 of 3 rows were dropped (2 are left with fewer than two different tiers), "
        "more than max_drop 0.5; mend them or raise max_drop; tokens per row: median 13, 99 % 13, longest 13"
    )


def test_a_row_without_anything_to_train_on_is_dropped_and_counted() -> None:
    data = Dataset("d", [chat("a", "hi", "yes", weight=0.0), chat("b", "hi", "no")])
    out = tokenize.conversations(data, LETTERS, max_prompt=6, max_answer=4, max_drop=0.5)
    assert [row.id for row in out.rows] == ["b"]
    assert out.notes == ["d: 1 of 2 rows have no token to train on"]
    with pytest.raises(DataError, match="1 of 1 rows were dropped"):
        tokenize.conversations(Dataset("d", data.rows[:1]), LETTERS, max_prompt=6, max_answer=4, max_drop=1.0)


def test_max_prompt_must_leave_room_for_what_opens_an_answer() -> None:
    data = Dataset("d", [Prompt("a", ask("abcdefg"))])
    assert tokenize.prompts(data, LETTERS, max_prompt=4, max_drop=0.0).rows[0].prompt == (1, 97, 103, 2)
    with pytest.raises(DataError) as error:
        tokenize.prompts(data, LETTERS, max_prompt=3, max_drop=0.0)
    assert str(error.value) == (
        "d: max_prompt 3 leaves no room beside the 1 tokens that open an answer; give at least 4"
    )


def test_special_tokens_in_texts_are_counted_by_row_set() -> None:
    template = ChatTemplate(build_tokenizer(300), "chatml")
    data = Dataset("d", [chat("a", "say <|im_end|>", "<|im_start|>"), chat("b", "hi", "yes")])
    out = tokenize.conversations(data, template, max_prompt=99, max_answer=99, max_drop=0.0)
    assert out.notes == ["d: 2 special tokens in texts, encoded as plain text, in 2 rows"]
    again = tokenize.conversations(
        Dataset("d", data.rows[1:]), template, max_prompt=99, max_answer=99, max_drop=0
    )
    assert again.notes == []


def test_the_prompt_of_a_conversation_ends_where_training_starts() -> None:
    template = ChatTemplate(build_tokenizer(300), "chatml")
    turns = (*ask("a"), Message("assistant", "b", 0.0), *ask("c"), Message("assistant", "d", 2.0))
    out = tokenize.conversations(
        Dataset("d", [Conversation("x", turns)]), template, max_prompt=99, max_answer=99, max_drop=0.0
    )
    (row,) = out.rows
    assert template.decode(row.prompt).endswith("user\nc<|im_end|>\n<|im_start|>assistant\n")
    assert template.decode(row.responses[0].ids) == "d<|im_end|>"
    assert row.responses[0].weights == (2.0, 2.0)


TALK = (*ask("a"), Message("assistant", "b", 0.5), *ask("c"), Message("assistant", "d", 2.0))


def scored(turns: tuple[Message, ...], train_on: Any) -> tuple[ChatTemplate, Any]:
    template = ChatTemplate(build_tokenizer(300), "chatml")
    data = Dataset("d", [Conversation("x", turns, weight=3.0)])
    out = tokenize.conversations(
        data, template, max_prompt=99, max_answer=99, max_drop=1.0, train_on=train_on
    )
    return template, out.rows[0]


def test_the_last_turn_alone_is_trained_on() -> None:
    template, row = scored(TALK, "last")
    assert template.decode(row.responses[0].ids) == "d<|im_end|>"
    assert row.responses[0].weights == (2.0, 2.0)
    assert row.weight == 3.0


def test_every_token_but_the_first_is_trained_on_by_the_weight_of_its_turn() -> None:
    turns = (Message("user", "a", 0.25), TALK[1], Message("user", "c", 0.0), TALK[3])
    template, row = scored(turns, "all")
    assert template.decode(row.prompt) == "<|im_start|>", "nothing stands before it"
    told = [
        (template.decode([i]), w) for i, w in zip(row.responses[0].ids, row.responses[0].weights, strict=True)
    ]
    text = "".join(piece for piece, _ in told)
    assert text == (
        "user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\nd<|im_end|>"
    )
    ends = [i for i, (piece, _) in enumerate(told) if piece == "<|im_end|>"]
    assert [told[i][1] for i in ends] == [0.25, 0.5, 0.0, 2.0]
    assert {w for _, w in told[: ends[0] + 1]} == {0.25}
    assert {w for _, w in told[ends[1] + 1 : ends[2] + 1]} == {0.0}


def test_where_every_token_is_trained_on_the_row_may_be_as_long_as_prompt_and_answer() -> None:
    template = ChatTemplate(build_tokenizer(300), "chatml")
    talk = [Conversation("x", (*ask("how " * 9), Message("assistant", "well " * 9)))]
    ids, _ = template.encode_conversation(talk[0].messages)
    out = tokenize.conversations(
        Dataset("d", talk), template, max_prompt=20, max_answer=8, max_drop=0, train_on="all"
    )
    (row,) = out.rows
    assert [*row.prompt, *row.responses[0].ids] == [*ids[:27], template.eos_id]
    assert row.responses[0].weights == (1.0,) * 26 + (0.0,), "the EOS that was put back is not trained"


def test_a_long_text_is_cut_into_windows_that_score_each_token_once() -> None:
    template = ChatTemplate(build_tokenizer(300), "chatml")
    texts = [Conversation(name, (Message("assistant", text),), "s", 2.0) for name, text in
             (("long", "abcdefghijklmnop"), ("short", "a"))]  # fmt: skip
    ids, _ = template.encode_conversation(texts[0].messages)
    size = 4
    out = tokenize.conversations(Dataset("d", texts), template, max_prompt=20, max_answer=size, max_drop=0)
    *windows, short = out.rows
    assert [row.id for row in windows] == ["long", *(f"long/{n}" for n in range(2, len(windows) + 1))]
    assert [token for row in windows for token in row.responses[0].ids] == ids[1:]
    assert {w for row in windows for w in row.responses[0].weights} == {1.0}
    assert [row.prompt for row in windows] == [(ids[i],) for i in range(0, len(ids) - 1, size)]
    assert [row.ends for row in windows] == [False] * (len(windows) - 1) + [True]
    assert windows[-1].responses[0].ids[-1] == template.eos_id
    assert (short.ends, len(short.responses[0].ids), short.weight) == (True, 2, 2.0)
    assert out.notes == ["d: 1 plain texts cut into windows of max_answer 4, in 2 rows"]
    last_label_is_eos(out.rows, template.eos_id, "sft")
