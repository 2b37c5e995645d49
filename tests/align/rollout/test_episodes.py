"""Episodes: which tokens were sampled, when one is over, and log-probs against a forward of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.config.base import SamplingOptions
from align.data.types import Message, Prompt, Response, TokenRow
from align.engine import flat
from align.engine.batch import pack
from align.errors import ConfigError
from align.models.policy import model_logps
from align.rollout.calculator import Calculator
from align.rollout.ends import Ends
from align.rollout.episodes import Episodes, Turn
from align.rollout.generate import generate
from align.rollout.types import End, Rollout

EOS, OPEN, CLOSE = 2, 3, 4
PROMPT, ASKED = TokenRow("p", (7, 8), ()), Prompt("p", (Message("user", "q"),), facts={"answer": "84"})


def encode(text: str) -> list[int]:
    """A reply between two marks."""
    return [OPEN, *map(ord, text), CLOSE]


def decode(ids: Sequence[int]) -> str:
    return "".join(chr(i) for i in ids)


ENDS = Ends((EOS,), (), decode)


class Echo:
    """Says the turn again, until it is empty; an episode is worth its number of turns."""

    def reset(self, prompt: Prompt) -> None:
        self.turns = 0

    def step(self, text: str) -> str | None:
        self.turns += 1
        return text or None

    def reward(self) -> float:
        return self.turns


def episodes(make: Callable[[], Any] = Echo, turns: int = 9, room: int = 99, ends: Ends = ENDS) -> Episodes:
    return Episodes("echo", make, turns, room, encode, EOS, ends)


def script(*turns: tuple[str, End], seen: list[TokenRow] | None = None) -> Turn:
    """A policy that says this, whatever it is told; each token has its place in the episode as log-prob."""
    said = iter(turns)
    count = 0

    def turn(rows: Sequence[TokenRow], samples: int) -> list[Rollout]:
        nonlocal count
        ((text, end),) = [next(said) for row in rows for _ in range(samples)]
        ids = (*map(ord, text), *([EOS] if end == "eos" else []))
        logps = tuple(-float(count + i) for i in range(len(ids)))
        count += len(ids)
        if seen is not None:
            seen.extend(rows)
        return [Rollout(rows[0].id, 0, rows[0].prompt, ids, logps, end)]

    return turn


def played(how: Episodes, *turns: tuple[str, End], seen: list[TokenRow] | None = None) -> Rollout:
    (found,) = how.play(script(*turns, seen=seen), [PROMPT], [ASKED], 1)
    return found


A, B = map(ord, "ab")


def test_what_was_sampled_by_hand() -> None:
    seen: list[TokenRow] = []
    found = played(episodes(), ("ab", "eos"), ("b", "eos"), ("", "eos"), seen=seen)
    assert found.ids == (A, B, EOS, OPEN, A, B, CLOSE, B, EOS, OPEN, B, CLOSE, EOS)
    assert [int(one) for one in found.sampled] == [1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    assert found.logps == (0.0, -1.0, -2.0, -3.0, -4.0, -5.0)
    assert (found.turns, found.start, found.end) == (((0, 3), (7, 9), (12, 13)), 12, "eos")
    assert [(turn.role, turn.content) for turn in found.heard] == [
        ("assistant", "ab"), ("user", "ab"), ("assistant", "b"), ("user", "b"),
    ]  # fmt: skip
    assert (found.id, found.sample, found.prompt, found.earned) == ("p", 0, (7, 8), 3.0)
    assert [row.prompt for row in seen] == [(7, 8), (7, 8, *found.ids[:7]), (7, 8, *found.ids[:12])]
    assert len({row.id for row in seen}) == 3, "each turn has draws of its own"
    assert ENDS.text(found) == ""


def test_eos_stands_behind_a_turn_that_a_stop_string_ended_and_was_not_sampled() -> None:
    found = played(episodes(ends=Ends((EOS,), ("b",), decode)), ("ab", "stop"), ("", "eos"))
    assert found.ids == (A, B, EOS, OPEN, A, CLOSE, EOS)
    assert [int(one) for one in found.sampled] == [1, 1, 0, 0, 0, 0, 1]
    assert found.heard[0].content == "a"


@pytest.mark.parametrize(
    ("how", "first", "ids"),
    [
        ({"turns": 1}, ("ab", "eos"), (A, B, EOS)),
        ({}, ("ab", "length"), (A, B)),  # cut: the turn is heard, and that is all
        ({}, ("", "eos"), (EOS,)),
        ({"room": 8}, ("ab", "eos"), (A, B, EOS)),  # 2 + 3 + 4 tokens would be 9
    ],
)
def test_an_episode_is_over(how: dict[str, int], first: tuple[str, End], ids: tuple[int, ...]) -> None:
    found = played(episodes(**how), first)
    assert (found.ids, found.sampled, found.heard, found.earned) == (ids, (True,) * len(ids), (), 1.0)


def test_a_reply_that_just_fits_is_answered() -> None:
    assert len(played(episodes(room=9), ("ab", "eos"), ("", "eos")).turns) == 2


def test_a_scripted_policy_solves_a_problem() -> None:
    found = played(episodes(Calculator), ("<<12*7>>", "eos"), ("84", "eos"))
    assert (found.earned, found.heard[1].content, len(found.turns)) == (1.0, "84", 2)
    assert played(episodes(Calculator), ("<<12*7>>", "eos"), ("85", "eos")).earned == 0.0


class Wrong(Echo):
    def step(self, text: str) -> Any:
        return 84


class Mute(Echo):
    def reward(self) -> Any:
        return None


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (Wrong, "environment echo: step returned int, not text; return text, or None"),
        (Mute, "environment echo: reward returned NoneType, not a number; return a number"),
    ],
)
def test_what_an_environment_may_not_return(make: Callable[[], Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        played(episodes(make), ("", "eos"))


# --- on a model -----------------------------------------------------------------------------------------

ROWS = [TokenRow(f"p{n}", tuple(range(3, 3 + n)), ()) for n in (1, 5, 3)]
SAMPLING = SamplingOptions(max_new_tokens=6, temperature=0.7)


class Fixed(Echo):
    """Replies the same tokens to two turns."""

    def step(self, text: str) -> str | None:
        self.turns += 1
        return "\x05\x06" if self.turns < 3 else None


def model(on_slots: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=1,
        initializer_range=0.5,
    )  # fmt: skip
    made = LlamaForCausalLM(config).eval()
    if on_slots:
        assert flat.prepare(made.base_model)
    return made


def sampled(made: Any, rows: Sequence[TokenRow], samples: int = 4) -> list[Rollout]:
    def turn(rows: Sequence[TokenRow], count: int) -> list[Rollout]:
        return generate(made, rows, SAMPLING, ENDS, seed=0, samples=count)

    return episodes(Fixed).play(turn, rows, [Prompt(row.id, ()) for row in rows], samples)


@pytest.mark.parametrize("on_slots", [True, False])
def test_log_probs_equal_those_of_a_forward_of_the_whole_episode(on_slots: bool) -> None:
    made = model(on_slots)
    found = sampled(made, ROWS)
    assert {len(r.turns) for r in found} >= {2, 3}
    rows = [TokenRow("x", r.prompt, (Response(r.ids, tuple(map(float, r.sampled))),)) for r in found]
    batch = pack(rows)
    own = [i for r in found for i, one in zip(r.ids, r.sampled, strict=True) if one]
    assert batch.targets.tolist() == own
    with torch.no_grad():
        now = model_logps(made, batch, SAMPLING.temperature)[0]
    recorded = torch.tensor([logp for r in found for logp in r.logps])
    torch.testing.assert_close(now, recorded, atol=1e-5, rtol=0)


def test_an_episode_depends_on_its_own_prompt_and_number_only() -> None:
    made = model(on_slots=True)
    whole = {(r.id, r.sample): r for r in sampled(made, ROWS)}
    assert list(whole) == [(row.id, k) for row in ROWS for k in range(4)]
    for found in sampled(made, ROWS[1:2], samples=2):
        want = whole[found.id, found.sample]
        assert (found.ids, found.turns, found.end) == (want.ids, want.turns, want.end)
    assert len({r.ids for r in whole.values() if r.id == "p1"}) > 1
