"""Single answers with labels: the points of reference by hand, and the stage on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from align.artifacts.store import Artifact, Store
from align.config.schema import LoraAdapter, NoAdapter, TinyModel
from align.config.stages import KtoOptions
from align.data.tokenize import Tokenised
from align.data.types import Response, TokenRow
from align.engine.batch import Budget, TokenBatch
from align.errors import DataError, Interrupted
from align.models.policy import load_template
from align.models.sources import materialise
from align.objectives.unpaired import bco
from align.run import main
from align.stages import kto
from align.stages.answer_logps import by_id, summed
from align.stages.base import StageContext
from align.stages.kto import Kto, asked_of_reference, imbalance, told_by_reference
from align.stages.kto_anchor import HELD_OUT, Kl, Middle, Zero, mismatched

EOS = 2


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def row(name: str, prompt: int, *answer: int, desirable: bool = True) -> TokenRow:
    return TokenRow(name, (prompt,), (Response(answer, (1.0,) * len(answer)),), desirable=desirable)


A, B, C = row("a", 10, 3), row("b", 20, 5, 5), row("c", 30, 7)


def read(batch: TokenBatch) -> Tensor:
    """The log-prob of a token is its prompt's number times its own, over -100."""
    prompts = batch.ids[batch.spans[:, 0]]
    return summed(-(prompts[batch.scored_in] * batch.targets) / 100, batch)


# --- points of reference -----------------------------------------------------------------------------


def test_each_prompt_gets_the_answer_of_the_row_before() -> None:
    made = mismatched([A, B, C])
    assert [m.id for m in made] == ["a", "b", "c"]
    assert [m.prompt for m in made] == [(10,), (20,), (30,)]
    assert [m.responses[0].ids for m in made] == [(7,), (3,), (5, 5)]
    assert mismatched([A]) == [A]
    assert mismatched([]) == []


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_what_the_reference_is_asked_and_told(tokens: int) -> None:
    passes = {HELD_OUT: mismatched([C]), 0: mismatched([A, B]), 1: mismatched([B, A])}
    asked = asked_of_reference([A, B, C], passes)
    assert [len(r.responses) for r in asked] == [2, 2, 2, 1, 1], "one forward of a prompt, later passes apart"
    own, others = told_by_reference(by_id(asked, Budget(tokens), read), passes)
    assert [own[n].tolist() for n in "abc"] == [
        [pytest.approx(-0.3)],
        [pytest.approx(-2.0)],
        [pytest.approx(-2.1)],
    ]
    assert {e: {n: x.item() for n, x in part.items()} for e, part in others.items()} == {
        HELD_OUT: {"c": pytest.approx(-2.1)},
        0: {"a": pytest.approx(-1.0), "b": pytest.approx(-0.6)},
        1: {"a": pytest.approx(-1.0), "b": pytest.approx(-0.6)},
    }
    assert asked_of_reference([A, B], {}) == [A, B]


def kl(reference: dict[str, float], model: nn.Module | None = None, reader: Any = read) -> Kl:
    told = {3: {name: torch.tensor([x]) for name, x in reference.items()}}
    policy: Any = SimpleNamespace(model=model or nn.Linear(1, 1))
    return Kl(policy, reader, told)


@pytest.mark.parametrize("tokens", [1, 10**6])
def test_the_kl_is_the_mean_over_the_step_and_never_below_0(tokens: int) -> None:
    # Mismatched under the policy: a -0.7, b -0.6, c -3.0.
    point = kl({"a": -1.0, "b": -1.0, "c": -3.5})
    point.before(0, 3, [A, B, C], Budget(tokens))
    assert point.value == pytest.approx((0.3 + 0.4 + 0.5) / 3)
    assert point.after({"loss": 1.0}) == {"loss": 1.0, "kl": point.value}
    point = kl({"a": 0.0, "b": -1.0, "c": -3.2})
    point.before(0, 3, [A, B, C], Budget(tokens))
    assert point.value == 0.0
    assert point.state() == {}


def test_the_kl_is_read_without_dropout_and_gradient_and_training_goes_on() -> None:
    model = nn.Linear(1, 1).train()
    seen = []

    def look(batch: TokenBatch) -> Tensor:
        seen.append((model.training, torch.is_grad_enabled()))
        return read(batch)

    kl({"a": 0.0, "b": 0.0}, model, look).before(0, 3, [A, B], Budget(100))
    assert seen == [(False, False)]
    assert model.training

    def fail(batch: TokenBatch) -> Tensor:
        raise MemoryError

    with pytest.raises(MemoryError):
        kl({"a": 0.0, "b": 0.0}, model, fail).before(0, 3, [A, B], Budget(100))
    assert model.training, "the loop does the step again"


def test_the_middle_moves_with_the_steps_before() -> None:
    point = Middle()
    assert point.after({"rewards/chosen": 1.0, "rewards/rejected": -3.0})["delta"] == 0.0
    assert point.value == pytest.approx((0.1 - 0.3) / 2)
    told = point.after({"rewards/rejected": 2.0})  # a step without desirable answers
    assert told["delta"] == pytest.approx(-0.1)
    assert "rewards/margins" not in told
    assert point.value == pytest.approx((0.1 + (0.9 * -0.3 + 0.1 * 2.0)) / 2)
    again = Middle()
    again.load(json.loads(json.dumps(point.state())))
    assert (again.chosen, again.rejected, again.value) == (point.chosen, point.rejected, point.value)


def test_the_margin_is_that_of_desirable_over_undesirable() -> None:
    assert Zero().after({"rewards/chosen": 0.25, "rewards/rejected": -0.5})["rewards/margins"] == 0.75


# --- labels ------------------------------------------------------------------------------------------


def options(**given: Any) -> KtoOptions:
    return KtoOptions(kind="kto", data="x", **given)


@pytest.mark.parametrize(
    ("good", "bad", "given", "advice"),
    [
        (2, 1, {}, None),
        (1, 2, {}, None),
        (90, 30, {}, "s.undesirable_weight=2.25, at most 3"),
        (30, 90, {}, "s.desirable_weight=3, at most 4"),
        (90, 30, {"undesirable_weight": 2.5}, None),
        (90, 30, {"desirable_weight": 2.0}, "s.undesirable_weight=4.5, at most 6"),
        (30, 90, {"undesirable_weight": 0.5}, None),
        (30, 90, {"undesirable_weight": 2.0}, "s.desirable_weight=6, at most 8"),
    ],
)
def test_a_label_that_outweighs_the_other(good: int, bad: int, given: Any, advice: str | None) -> None:
    told = imbalance(options(**given), good, bad, "s")
    assert told is None if advice is None else told is not None and told.endswith(f"try {advice}")


def test_the_advice_is_followed_by_silence() -> None:
    assert imbalance(options(undesirable_weight=2.25), 90, 30, "s") is None


@pytest.mark.parametrize(
    ("good", "bad", "line"),
    [
        (7, 0, "s.data: all 7 answers to train on are desirable; add undesirable ones (label: false)"),
        (0, 7, "s.data: all 7 answers to train on are undesirable; add desirable ones (label: true)"),
    ],
)
def test_answers_of_one_label_teach_nothing(good: int, bad: int, line: str) -> None:
    with pytest.raises(DataError) as error:
        imbalance(options(), good, bad, "s")
    assert str(error.value) == line


# --- the stage ---------------------------------------------------------------------------------------


def stage(folder: Path, stop: Sequence[int] = (), adapter: Any = None, **given: Any) -> Kto:
    """A stage with twelve rows of its own; asked whether to stop, it says yes the n-th time."""
    model = TinyModel(kind="tiny")
    base = materialise(model)
    recipe: Any = SimpleNamespace(model=model, adapter=adapter or NoAdapter(kind="none"))
    calls = iter(range(1, 1000))
    context = StageContext(
        "kto",
        KtoOptions(kind="kto", data="x", lr=1e-2, epochs=3, batch_size=4, checkpoint_every=1, **given),
        recipe,
        5,
        base,
        {},
        Store(folder).work("policy", "k" * 64),
        Mock(),
        lambda: next(calls) in stop,
    )
    made = Kto(context)
    made.template = load_template(base, "chatml")
    eos = made.template.eos_id
    rows = [row(f"r{n}", 40 + n, *range(50 + n, 52 + n + n % 4), eos, desirable=n % 3 > 0) for n in range(15)]
    made.tokens = {"train": Tokenised("x", rows[:12]), "test": Tokenised("x", rows[12:])}
    return made


def done(made: Kto, out: Path) -> tuple[list[dict[str, float]], dict[str, Tensor], dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    summary = made.run(out)
    (file,) = out.glob("*.safetensors")
    return made.ctx.work.metrics.rows(), load_file(file), summary


LOSSES = ["kto", "bco", "apo_zero_unpaired"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_cut_changes_nothing(tmp_path: Path, loss: str) -> None:
    one, other = (
        done(stage(tmp_path / str(cut), loss=loss, tokens_per_microbatch=cut), tmp_path / f"{cut}/out")
        for cut in (16, 4096)
    )
    for a, b in zip(one[0], other[0], strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
    assert one[2]["held_out"] == pytest.approx(other[2]["held_out"], rel=1e-3, abs=1e-4)
    point = {"kto": "kl", "bco": "delta"}.get(loss)
    assert point is None or max(abs(a[point]) for a in one[0]) > 0.01


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("loss", LOSSES)
def test_interrupted_and_resumed_is_bit_identical(tmp_path: Path, loss: str, adapter: str) -> None:
    kind = NoAdapter(kind="none") if adapter == "none" else LoraAdapter(kind="lora", r=4, dropout=0.3)
    want = done(stage(tmp_path / "a", adapter=kind, loss=loss), tmp_path / "a/out")
    with pytest.raises(Interrupted, match="step 4 of 9"):
        done(stage(tmp_path / "b", stop=[4], adapter=kind, loss=loss), tmp_path / "b/out")
    torch.manual_seed(99)
    rows, weights, summary = done(stage(tmp_path / "b", adapter=kind, loss=loss), tmp_path / "b/out")
    assert (rows, summary) == (want[0], want[2])
    assert all(torch.equal(weights[name], x) for name, x in want[1].items())
    assert len(rows) == 9


def failing_at(number: int, function: Any) -> Any:
    """The function, but its call of that number runs out of memory."""
    calls = iter(range(1, 1000))

    def wrapped(*given: Any) -> Any:
        if next(calls) == number:
            raise MemoryError
        return function(*given)

    return wrapped


@pytest.mark.parametrize("loss", ["kto", "bco"])
def test_a_step_that_runs_out_of_memory_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    want = done(stage(tmp_path / "a", loss=loss), tmp_path / "a/out")
    monkeypatch.setattr("align.stages.kto_anchor.by_id", failing_at(3, by_id))  # the KL of step 3
    # Behind 4 of the check: the loss of step 8.
    monkeypatch.setitem(kto.UNPAIRED_LOSSES, "bco", failing_at(12, bco))
    made = stage(tmp_path / "b", loss=loss)
    rows, _, _ = done(made, tmp_path / "b/out")
    notes = [call.args[0] for call in made.ctx.reporter.note.call_args_list]  # type: ignore[attr-defined]
    assert sum("out of memory; again" in note for note in notes) == 1
    for a, b in zip(want[0], rows, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


def test_it_starts_at_its_reference_and_the_margin_grows(tmp_path: Path) -> None:
    rows, _, summary = done(stage(tmp_path, undesirable_weight=2.0), tmp_path / "out")
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert sum(r["loss"] for r in rows[:3]) > sum(r["loss"] for r in rows[-3:])
    assert rows[-1]["rewards/margins"] > 0.05
    assert (summary["rows"], summary["desirable"], summary["undesirable"]) == (12, 8, 4)
    assert set(summary["held_out"]) >= {"loss", "n", "kl", "rewards/margins", "rewards/chosen"}


def test_a_torn_reference_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(ctx: Any, start: Any, rows: Any, compute: Any) -> Any:
        return {name: x + 1 for name, x in compute().items()}

    monkeypatch.setattr("align.stages.kto.cached_logps", wrong)
    for loss in LOSSES:
        with pytest.raises(Exception, match="kto, step 0: the loss and that of policy = reference differ"):
            done(stage(tmp_path / loss, loss=loss), tmp_path / loss / "out")


# --- through the command line -------------------------------------------------------------------------


def run(tmp_path: Path, stages: dict[str, Any], *overrides: str) -> int:
    folder = tmp_path / "mine" / "recipe"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"defaults": [{"override /model": "tiny"}], "stages": stages}
    (folder / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    runs = f"runs={tmp_path / 'runs'}"
    return main(["--config-dir", str(tmp_path / "mine"), "recipe=mine", runs, *overrides])


def made_in(tmp_path: Path) -> dict[str, Artifact]:
    return {a.stage: a for a in Store(tmp_path / "runs" / "artifacts").all()}


def summary(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "summary.json").read_text())  # type: ignore[no-any-return]


def rows_of(path: Path, labels: Sequence[bool]) -> str:
    """The rows of a user, as TRL's unpaired preference format has them, as texts and as messages."""
    lines = []
    for n, label in enumerate(labels):
        prompt, answer = f"question {n}", f"{'yes' if label else 'no'} {n}"
        as_turns = {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": answer}],
        }
        lines.append({**({"prompt": prompt, "completion": answer} if n % 2 else as_turns), "label": label})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


OWN = {"kind": "kto", "lr": 1e-2, "max_prompt": 32, "max_answer": 24}


def test_a_users_own_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = rows_of(tmp_path / "mine.jsonl", [n % 5 == 0 for n in range(80)])
    assert run(tmp_path, {"kto": {**OWN, "data": data, "epochs": 4}}, "adapter=lora") == 0
    told = summary(made_in(tmp_path)["kto"])
    assert told["desirable"] < told["undesirable"] < 80
    assert told["held_out"]["rewards/margins"] > 0
    shown = " ".join((lambda out: out.out + out.err)(capsys.readouterr()).split())
    assert shown.count("desirable answers weigh") == 1
    assert "try stages.kto.desirable_weight=" in shown


def test_labels_that_are_all_alike_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = rows_of(tmp_path / "mine.jsonl", [True] * 20)
    assert run(tmp_path, {"kto": {**OWN, "data": data}}, "plan=true") == 2
    line = " ".join(capsys.readouterr().err.split())
    assert "answers to train on are desirable; add undesirable ones (label: false)" in line


def test_the_next_stages_read_what_it_leaves(tmp_path: Path) -> None:
    rankings = {"card": "everyday_rankings", "limit": 16}
    sampling = {"max_new_tokens": 8}
    stages = {
        "kto": {**OWN, "data": rankings},
        "reward": {"kind": "reward", "model": "kto", "data": rankings, "max_prompt": 32, "max_answer": 24},
        "ppo": {
            "kind": "rl", "policy": "kto", "reward": "reward", "prompts": "everyday_prompts",
            "iterations": 1, "prompts_per_iteration": 4, "epochs": 1, "minibatches": 2, "max_prompt": 32,
            "sampling": sampling,
        },
        "eval": {
            "kind": "evaluate", "policies": ["kto", "ppo"], "reward": "reward", "limit": 4,
            "prompts": "everyday_prompts", "max_prompt": 32, "sampling": sampling,
        },
    }  # fmt: skip
    assert run(tmp_path, stages, "adapter=lora") == 0
    assert set(made_in(tmp_path)) == {"kto", "reward", "ppo", "eval"}


def test_the_recipe_on_a_tiny_model(tmp_path: Path) -> None:
    small = ["stages.kto.data={card: everyday_rankings, limit: 48}", "stages.kto.lr=1e-2"]
    small += ["stages.kto.epochs=4", "stages.kto.max_prompt=32", "stages.kto.max_answer=24"]
    small += ["stages.sft.data={card: everyday_answers, limit: 16}", "stages.sft.max_answer=24"]
    assert main(["recipe=kto", "model=tiny", "adapter=lora", f"runs={tmp_path / 'runs'}", *small]) == 0
    made = made_in(tmp_path)["kto"]
    rows = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-3)
    assert rows[-1]["rewards/margins"] > 0.1
    assert (made.path / "adapter_config.json").exists()
    (report,) = (tmp_path / "runs").glob("kto-*/report.html")
    text = report.read_text()
    assert "kto rewards the desirable of" in text
    assert "Estimated KL to the reference (z0)" in text
