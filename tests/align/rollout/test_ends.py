"""Where answers end, by hand; tokens are pieces of text."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from align.rollout.ends import Ends
from align.rollout.types import Rollout

PIECES = ["a", "b", "</s>", "\n", "\n\n", "x\n", "stop", "st", "op it", "é"]
A, B, EOS, LINE, LINES, X_LINE, STOP, ST, OP_IT, E = range(10)


def decode(ids: Sequence[int]) -> str:
    return "".join(PIECES[i] for i in ids)


def ended(ends: Ends, ids: tuple[int, ...], least: int = 0) -> str | None:
    """How an answer ends that grows token by token; it must not end before its last."""
    for count in range(1, len(ids)):
        assert ends.reached(ids[:count], least) is None
    return ends.reached(ids, least)


def text(ends: Ends, ids: tuple[int, ...], end: str) -> str:
    return ends.text(Rollout("r", 0, (A,), ids, (0.0,) * len(ids), end))  # type: ignore[arg-type]


def test_every_eos_ends_an_answer_and_is_no_text() -> None:
    ends = Ends((EOS, B), decode=decode)
    assert ended(ends, (A, A, EOS)) == "eos"
    assert ended(ends, (A, B)) == "eos"
    assert ended(ends, (A, A)) is None
    assert text(ends, (A, A, B), "eos") == "aa"
    assert text(ends, (A, A), "length") == "aa"


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ((A, STOP), "a"),
        ((A, ST, OP_IT), "a"),  # over two tokens, and the last one holds more
        ((A, LINE, LINE), "a"),
        ((A, X_LINE, LINES), "ax"),  # the first of two places
        ((STOP,), ""),
    ],
)
def test_a_stop_string_ends_an_answer_with_the_token_that_completes_it(
    ids: tuple[int, ...], left: str
) -> None:
    ends = Ends((EOS,), ("stop", "\n\n"), decode)
    assert ended(ends, ids) == "stop"
    assert text(ends, ids, "stop") == left


def test_a_stop_string_within_the_least_length_does_not_count() -> None:
    ends = Ends((EOS,), ("\n\n", "stop"), decode)
    assert ended(ends, (A, LINES, A, B), least=2) is None
    assert ended(ends, (A, LINES, A, STOP), least=2) == "stop"
    assert text(ends, (A, LINES, A, STOP), "stop") == "a\n\na", "the first one did not end it"
    assert ended(ends, (A, LINE, LINE), least=2) == "stop", "it is complete behind the least length"
    assert ended(ends, (A, LINES, LINES), least=2) == "stop"
    assert text(ends, (A, LINES, LINES), "stop") == "a\n", "vLLM too looks where the new token may begin it"


def test_a_long_answer_is_read_from_its_tail() -> None:
    read: list[int] = []

    def counted(ids: Sequence[int]) -> str:
        read.append(len(ids))
        return decode(ids)

    ends = Ends((EOS,), ("stop",), counted)
    assert ends.reached((A,) * 500 + (STOP,)) == "stop"
    assert max(read) <= 12


def test_a_character_that_is_not_whole_yet() -> None:
    """The last token may complete what was shown as a replacement before."""

    def bytes_of(ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")

    ends = Ends((0,), ("é",), bytes_of)
    assert ended(ends, tuple("aé".encode())) == "stop"
    assert text(ends, tuple("aé".encode()), "stop") == "a"


def test_the_template_and_the_base_model_both_name_ends() -> None:
    template = SimpleNamespace(eos_id=7, decode=decode)

    def eos(known: object) -> tuple[int, ...]:
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=known))
        return Ends.of(model, template, ["x"]).eos  # type: ignore[arg-type]

    assert (eos(None), eos(7), eos(3), eos([3, 7, 4])) == ((7,), (7,), (7, 3), (7, 3, 4))
    assert Ends.of(None, template).eos == (7,)  # type: ignore[arg-type]
