"""An evaluation's parts on scripted policies: what is sampled, what it is compared with, what is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align.config.base import SamplingOptions
from align.config.stages import EvaluateOptions
from align.data.types import Dataset, Message, Prompt, TokenRow
from align.engine.batch import Budget, TokenBatch
from align.errors import Interrupted
from align.rollout.types import Rollout
from align.stages import evaluate
from align.stages.evaluate import Evaluate, _first_of_each

EOS = 2
PROMPTS = [TokenRow(name, (7,) * n, (), source="s") for name, n in (("a", 3), ("b", 9), ("c", 1))]
ANSWERS = {"a": (5, EOS), "b": (6, 6, 6, 6), "c": (5, 6, EOS)}


class Policy:
    """Each token costs a nat; tokens 6 are `wiser` nats more likely; all divided by the temperature."""

    def __init__(self, wiser: float) -> None:
        self.wiser, self.plain = wiser, None

    def budget(self, tokens: object) -> Budget:
        """Room for all."""
        return Budget(4096)

    def logps(self, batch: TokenBatch, temperature: float) -> tuple[torch.Tensor, None]:
        """[C]."""
        return (self.wiser * (batch.targets == 6).float() - 1.0) / temperature, None


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    options = EvaluateOptions(
        kind="evaluate", policies=["sft", "ppo", "dpo"], reward="rm", prompts="x", judge="ratings",
        sampling=SamplingOptions(temperature=0.5), tokens_per_microbatch=16,
    )  # fmt: skip
    saved: list[dict[str, Any]] = []
    work = SimpleNamespace(
        latest=lambda: SimpleNamespace(state=saved[-1]) if saved else None,
        save=lambda step, tensors, state: saved.append({"answers": dict(state["answers"])}),
        metrics=SimpleNamespace(truncate=lambda count: None),
    )
    ctx = SimpleNamespace(
        options=options, seed=11, name="eval", work=work, stop=lambda: False, base="folder",
        reporter=SimpleNamespace(step=lambda *a: None), dtype="float32",
        recipe=SimpleNamespace(model=SimpleNamespace(template=None)),
    )  # fmt: skip
    made = Evaluate(ctx)  # type: ignore[arg-type]
    made.prompts = PROMPTS
    made.template = SimpleNamespace(eos_id=EOS, decode=str)  # type: ignore[assignment]
    wiser = {"sft": 0.25, "ppo": 1.0, "dpo": 0.0, "base": 9.0}
    monkeypatch.setattr(made, "_open", lambda name: Policy(wiser[name]))

    def generate(model: Any, prompts: list[TokenRow], sampling: Any, ends: Any, *, seed: int) -> Any:
        assert (seed, sampling.temperature) == (11, 0.5), "the same draws for every policy"
        return [
            Rollout(p.id, 0, p.prompt, ids, (0.0,) * len(ids), "eos" if ids[-1] == EOS else "length")
            for p in prompts
            for ids in (ANSWERS[p.id],)
        ]

    monkeypatch.setattr(evaluate, "generate", generate)
    return made


def test_kl_is_the_policys_log_probability_less_the_baselines(stage: Evaluate) -> None:
    found = stage._sample("ppo", "sft")
    # Tokens 6: none, four and one; each 1 - 0.25 nats at temperature 1, twice that at 1/2.
    assert found.kl == pytest.approx([0.0, 4 * 0.75 / 0.5, 0.75 / 0.5])
    assert found.ids == [list(ANSWERS[p.id]) for p in PROMPTS]
    assert found.texts == ["[5]", "[6, 6, 6, 6]", "[5, 6]"]
    assert found.ended == [True, False, True]
    assert stage._sample("sft", "sft").kl is None


def test_answers_of_finished_policies_are_kept(stage: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.ctx.stop = lambda: True
    with pytest.raises(Interrupted, match="answers of 1 policies"):
        stage._answers()
    stage.ctx.stop = lambda: False
    sampled = []
    inner = stage._sample
    monkeypatch.setattr(
        stage, "_sample", lambda name, base: sampled.append((name, base)) or inner(name, base)
    )
    found = stage._answers()
    assert sampled == [("ppo", "sft"), ("dpo", "sft")], "the first policy is the baseline, and done"
    assert list(found) == ["sft", "ppo", "dpo"]
    assert found["sft"].kl is None
    assert found["dpo"].kl == pytest.approx([0.0, -2.0, -0.5])


def test_prompts_are_held_out_and_the_judge_learns_from_training_rankings(
    stage: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    def load(data: Any, expect: str, split: str, **_: Any) -> Dataset[Any]:
        asked.append((data, expect, split))
        return Dataset("x", [Prompt("a", (Message("user", "?"),), "s")], {})

    monkeypatch.setattr(evaluate.cards, "load", load)
    monkeypatch.setattr(evaluate, "load_template", lambda base, name: stage.template)
    monkeypatch.setattr(evaluate.tokenize, "prompts", lambda *a, **k: SimpleNamespace(rows=PROMPTS))
    assert stage.prepare() == 3
    assert asked == [("x", "prompts", "test"), ("ratings", "rankings", "train")]


def test_a_limit_is_of_each_source() -> None:
    rows = [Prompt(str(n), (Message("user", "?"),), source) for n, source in enumerate("xxyxyy")]
    assert [row.id for row in _first_of_each(rows, 2)] == ["0", "1", "2", "4"]
    assert _first_of_each(rows, None) == rows
