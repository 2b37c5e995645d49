"""`engine=trl` from the stage's side: the batches it sees, what it refuses, how it stops, what it leaves."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from align.artifacts.store import Store
from align.config.schema import LoraAdapter, NoAdapter, TinyModel
from align.config.stages import DpoOptions, KtoOptions, RewardOptions, SftOptions
from align.data.tokenize import Tokenised
from align.data.types import Dataset, Response, TokenRow
from align.errors import DataError, Interrupted, NumericsError, Problems
from align.models.policy import load_template, open_policy
from align.models.sources import materialise
from align.stages import trl_engine
from align.stages.base import StageContext
from align.stages.dpo import Dpo
from align.stages.kto import Kto
from align.stages.reward import Reward
from align.stages.sft import Sft
from align.stages.trl_peers import PEERS

NONE, LORA = NoAdapter(kind="none"), LoraAdapter(kind="lora", r=4, alpha=8, dropout=0.0)
EOS = 2
# 11 rows in batches of 4 leave 3 to the last step of an epoch; 2 of the 9 steps are in the warm-up.
ROWS, EPOCHS, BATCH, STEPS = 11, 3, 4, 9
STAGES: dict[str, Any] = {"dpo": Dpo, "kto": Kto}
ANSWERS = {"sft": 1, "reward": 2, "dpo": 2, "kto": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models and of log-probs under a reference."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))


def rows(answers: int) -> list[TokenRow]:
    """Every third answer was cut: its EOS is there and is not scored."""
    draw, found = random.Random(4), []

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, 200) for _ in range(draw.randint(low, high)))

    for n in range(ROWS):
        responses = []
        for k in range(answers):
            ids = (*tokens(2, 9), EOS)
            last = 0.0 if (n + k) % 3 == 0 else 1.0
            responses.append(Response(ids, (*(1.0,) * (len(ids) - 1), last)))
        tiers = tuple(range(answers)) if answers > 1 else ()
        ratings = (draw.random() + 1, draw.random()) if answers > 1 else ()
        prompt, good = tokens(2, 7), n % 3 > 0
        row = TokenRow(f"r{n}", prompt, tuple(responses), tiers=tiers, ratings=ratings, desirable=good)
        found.append(row)
    return found


def context(options: Any, adapter: Any, folder: Path, stop: Callable[[], bool]) -> StageContext[Any]:
    model = TinyModel(kind="tiny")
    recipe: Any = SimpleNamespace(model=model, adapter=adapter)
    work = Store(folder).work("policy", "k" * 64)
    return StageContext("s", options, recipe, 7, materialise(model), {}, work, Mock(), stop)


def stage_of(kind: str, folder: Path, adapter: Any = NONE, stop: Any = lambda: False, **given: Any) -> Any:
    """A stage with its rows; `given` are options."""
    common = {"data": "x", "lr": 5e-3, "warmup": 0.2, "weight_decay": 0.1, "epochs": EPOCHS}
    common |= {"batch_size": BATCH, **given}
    if kind == "sft":
        stage: Any = Sft(context(SftOptions(kind="sft", **common), adapter, folder, stop))
        stage.data, stage.held_out = Tokenised("x", rows(1)), Tokenised("x", rows(1)[:2])
    else:
        if kind == "reward":
            common |= {"head_lr": 2e-3, "margin": 0.5, "centring": 0.1}
            stage = Reward(context(RewardOptions(kind="reward", **common | given), adapter, folder, stop))
            stage.texts = {split: Dataset("x", []) for split in ("train", "test")}
            held_out: list[TokenRow] = []
        else:
            options = KtoOptions if kind == "kto" else DpoOptions
            stage = STAGES[kind](context(options(kind=kind, **common), adapter, folder, stop))
            held_out = [replace(row, id=f"held-{row.id}") for row in rows(ANSWERS[kind])[:3]]
        stage.tokens = {"train": Tokenised("x", rows(ANSWERS[kind])), "test": Tokenised("x", held_out)}
    stage.template = load_template(stage.ctx.base, "chatml")
    return stage


def run(stage: Any) -> tuple[dict[str, Any], list[dict[str, float]], Path]:
    out = stage.ctx.work.folder.parent / "out"
    out.mkdir(parents=True)
    return stage.run(out), stage.ctx.work.metrics.rows(), out


def close(mine: Any, other: Any, where: str = "") -> None:
    """The same keys throughout, and numbers within 2e-5."""
    if isinstance(other, dict):
        assert set(mine) == set(other), where
        for name in other:
            close(mine[name], other[name], f"{where}.{name}")
    elif isinstance(other, float):
        assert mine == pytest.approx(other, rel=2e-5, abs=2e-5), where
    else:
        assert mine == other, where


@pytest.mark.parametrize("adapter", [NONE, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("sft", {}),
        ("reward", {"head_init": "fit"}),
        ("dpo", {"loss": {"sigmoid": 1.0, "nll": 0.3}}),
        ("dpo", {"loss": "aot"}),
        ("dpo", {"loss": "sigmoid_norm", "beta": 2.0, "ld_alpha": 0.5}),
        ("kto", {"desirable_weight": 0.7}),
        ("kto", {"loss": "apo_zero_unpaired"}),
    ],
    ids=["sft", "reward", "nll", "aot", "ld_alpha", "kto", "apo_zero_unpaired"],
)
def test_both_engines_see_the_same_batches_and_leave_the_same(
    tmp_path: Path, kind: str, given: dict[str, Any], adapter: Any
) -> None:
    """Over epochs whose last step is smaller, through a warm-up, with answers whose EOS is not scored."""
    made = {
        engine: run(stage_of(kind, tmp_path / engine, adapter, engine=engine, **given))
        for engine in ("align", "trl")
    }
    (summary, steps, folder), (other, more, beside) = made["trl"], made["align"]
    assert summary["steps"] == len(steps) == STEPS
    close(summary, other)
    for mine, row in zip(steps, more, strict=True):
        # TRL does not report each of several losses, nor the centring; equal scores count 0, not 1/2.
        dropped = {name for name in row if name.startswith("loss/") or name == "centring"}
        close(mine, {name: value for name, value in row.items() if name not in dropped})
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in beside.iterdir()}
    for name in names - {"model.safetensors", "adapter_model.safetensors"}:
        assert (folder / name).read_bytes() == (beside / name).read_bytes(), name


@pytest.mark.parametrize("kind", list(ANSWERS))
def test_a_stop_leaves_nothing_and_the_stage_starts_anew(tmp_path: Path, kind: str) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 4

    stage = stage_of(kind, tmp_path, stop=stop, engine="trl")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        Interrupted, match="saves no states, and step 4 of 9 was done; .* starts the stage anew"
    ):
        stage.run(out)
    assert list(out.iterdir()) == []
    assert [row["step"] for row in stage.ctx.work.metrics.rows()] == [1, 2, 3, 4]
    stage.ctx.stop = lambda: False
    stage.run(out)
    assert [row["step"] for row in stage.ctx.work.metrics.rows()] == list(range(1, STEPS + 1))
    notes = [call.args[0] for call in stage.ctx.reporter.note.call_args_list]
    assert "engine=trl saves no states: the stage starts again from its first step" in notes


def test_a_loss_that_is_not_finite_ends_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    def broken(self: Any, model: Any, inputs: Any, **kwargs: Any) -> Any:
        return sum(p.sum() for p in model.parameters()) * float("nan")

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken)
    stage = stage_of("sft", tmp_path, engine="trl")
    with pytest.raises(NumericsError, match="step 1: loss nan is not finite; no artifact is written"):
        stage.run(tmp_path)


def test_progress_is_told_and_nothing_else_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    stage = stage_of("dpo", tmp_path, LORA, engine="trl")
    run(stage)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert [w for w in recwarn if "trl" in str(w.filename)] == []
    calls = stage.ctx.reporter.step.call_args_list
    assert [call.args[:2] for call in calls] == [(n, STEPS) for n in range(1, STEPS + 1)]
    assert set(calls[0].args[2]) == {"loss", "accuracy", "margin"}
    pairs = rows(2)
    whole = sum(2 * len(row.prompt) + sum(len(r.ids) for r in row.responses) for row in pairs)
    assert sum(call.args[3] for call in calls) == EPOCHS * whole


@pytest.mark.parametrize("adapter", [NONE, LORA], ids=["full", "lora"])
def test_the_model_comes_back_as_it_was_lent(tmp_path: Path, adapter: Any) -> None:
    """Config, forward and adapters, so that what the artifact says does not depend on the engine."""

    policy = open_policy(
        materialise(TinyModel(kind="tiny")), materialise(TinyModel(kind="tiny")), "chatml", adapter
    )
    plain = policy.plain
    before = json.dumps(plain.config.to_dict(), default=str), json.dumps(plain.generation_config.to_dict())
    names, attention = [n for n, _ in policy.model.named_parameters()], plain.config._attn_implementation
    assert attention == "align_sdpa"
    with trl_engine._lent(policy) as model:
        assert plain.config._attn_implementation == "sdpa", "TRL's forward is the stock one"
        plain.config.pad_token_id, plain.generation_config.pad_token_id = 17, 17
        plain.forward = lambda: None
        if adapter is LORA:
            model.add_adapter("ref", model.peft_config["default"])
    assert before == (
        json.dumps(plain.config.to_dict(), default=str),
        json.dumps(plain.generation_config.to_dict()),
    )
    assert [n for n, _ in policy.model.named_parameters()] == names
    assert plain.config._attn_implementation == attention
    assert plain(input_ids=torch.tensor([[3, 4]])).logits.shape[:2] == (1, 2)


def test_rows_that_a_trainer_cannot_take(tmp_path: Path) -> None:
    ctx = stage_of("reward", tmp_path, engine="trl").ctx
    (first, *rest) = rows(2)
    trl_engine.check_rows(ctx, [first, *rest])
    three = replace(first, responses=(*first.responses, first.responses[0]), tiers=(0, 1, 2))
    with pytest.raises(DataError, match="row r0 ranks 3 answers, and TRL's RewardTrainer takes pairs; try "):
        trl_engine.check_rows(ctx, [*rest, three])
    half = Response((5, EOS), (0.5, 1.0))
    with pytest.raises(DataError, match="row r0 weighs its turns, and TRL's RewardTrainer takes them or "):
        trl_engine.check_rows(ctx, [replace(first, responses=(half, half))])
    heavy = replace(first, id="heavy", weight=2.0)
    with pytest.raises(Problems) as caught:
        trl_engine.check_rows(ctx, [heavy, three, replace(heavy, id="other"), replace(three, id="more")])
    assert [str(error) for error in caught.value.errors] == [
        "stages.s.engine: row heavy has a weight of 2, and TRL's RewardTrainer weighs all rows alike; "
        "leave the weights out, or stages.s.engine=align",
        "stages.s.engine: row r0 ranks 3 answers, and TRL's RewardTrainer takes pairs; "
        "try stages.s.max_answers=2, or stages.s.engine=align",
    ], "the first of each sort"


def test_the_better_answer_of_a_pair_is_the_chosen_one() -> None:
    """Whatever place it has in the row, with the margin of its ratings."""
    answers = (Response((5, EOS), (1.0, 1.0)), Response((6, EOS), (1.0, 1.0)))
    row = TokenRow("a", (3,), answers, tiers=(1, 0), ratings=(1.0, 4.0))
    options = RewardOptions(kind="reward", data="x", margin=0.5)
    assert PEERS["reward"].columns(options, row) == {
        "chosen_ids": [3, 6, EOS],
        "rejected_ids": [3, 5, EOS],
        "margin": 1.5,
    }
