"""A process reward model: where it is scored, what it learns, and how other stages read it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForTokenClassification

from align.artifacts.store import Artifact, Store
from align.config.schema import LoraAdapter, NoAdapter, TinyModel
from align.config.stages import ProcessRewardOptions
from align.data import tokenize
from align.data.types import Dataset, Message, Response, Stepwise, TokenRow
from align.engine.batch import Budget, pack
from align.errors import DataError
from align.models.reward_model import RewardModel, Steps, new_reward_model, open_reward_model
from align.models.sources import materialise
from align.objectives.process import bce
from align.reward import steps as reading
from align.reward.score import answer_row, score_rows
from align.run import main
from align.stages.base import StageContext
from align.stages.process_reward import ProcessReward, labels_of

FULL = NoAdapter(kind="none")
LORA = LoraAdapter(kind="lora", r=4)
LIMITS: dict[str, Any] = {"max_prompt": 64, "max_answer": 64, "max_drop": 0.0}
ASKED = (Message("user", "tea?"),)
READ = Steps("\n", "min", "bce")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def base() -> Path:
    return materialise(TinyModel(kind="tiny"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Answers of one to four steps; a step that says `boil` is right, one that says `burn` is wrong."""
    path = tmp_path / "steps.jsonl"
    with path.open("w") as file:
        for n in range(80):
            labels = [(n >> place) % 3 != 0 for place in range(1 + n % 4)]
            steps = [f"{'boil' if label else 'burn'} it {i}" for i, label in enumerate(labels)]
            file.write(json.dumps({"prompt": f"tea {n}?", "completions": steps, "labels": labels}) + "\n")
    return path


def stage(data: Path, folder: Path, **given: Any) -> ProcessReward:
    options = ProcessRewardOptions.model_validate(
        {"kind": "process_reward", "data": str(data), "max_prompt": 32, "max_answer": 64,
         "lr": 5e-3, "epochs": 4, **given}
    )  # fmt: skip
    recipe: Any = SimpleNamespace(model=TinyModel(kind="tiny"), adapter=FULL)
    base, work = materialise(TinyModel(kind="tiny")), Store(folder).work("reward", "k" * 64)
    return ProcessReward(StageContext("prm", options, recipe, 0, base, {}, work, Mock(), lambda: False))


def tokens(model: RewardModel, *answers: tuple[str, ...], separator: str = "\n") -> list[TokenRow]:
    rows = [
        Stepwise(f"r{i}", ASKED, steps, tuple(float(j % 2) for j in range(len(steps))))
        for i, steps in enumerate(answers)
    ]
    return tokenize.stepwise(Dataset("x", rows), model.template, separator, **LIMITS).rows


def test_a_step_ends_in_the_separator(base: Path) -> None:
    model = new_reward_model(base, base, None, FULL, layers=None, seed=0)
    (row,) = tokens(model, ("boil it", "pour it over"))
    ids, weights = row.responses[0].ids, row.responses[0].weights
    behind = [i for i, weight in enumerate(weights) if weight]
    decode = model.template.decode
    # The template of the tiny model opens an answer with a space.
    assert [decode(list(part)) for part in (ids[: behind[0]], ids[behind[0] : behind[1]])] == [
        " boil it\n",
        "pour it over\n",
    ]
    assert ids[behind[1] :] == (model.template.eos_id,)


@pytest.mark.parametrize("kind", [FULL, LORA], ids=["full", "lora"])
def test_loss_and_gradients_are_those_of_token_classification_with_two_classes(
    base: Path, kind: NoAdapter | LoraAdapter
) -> None:
    """As TRL trained process reward models: cross-entropy of two classes, a mean over the labelled tokens."""
    model = new_reward_model(base, base, None, kind, layers=None, seed=0)
    rows = tokens(model, ("boil it", "pour it", "drink"), ("no",), ("burn it", "spill"))
    loss = bce(model.step_scores(pack(rows)), labels_of(rows)).total / 6
    loss.backward()
    mine = {n: p.grad for n, p in model.model.named_parameters() if p.grad is not None}
    if kind is LORA:
        assert any("lora" in n for n in mine)
        assert any("score" in n for n in mine)
        return
    two = AutoModelForTokenClassification.from_pretrained(base, num_labels=2)
    with torch.no_grad():
        two.score.bias.zero_()
        two.score.weight[0] = 0.25
        two.score.weight[1] = 0.25 + model.head.weight[0]  # type: ignore[index,operator]
    length = max(len(row.prompt) + len(row.responses[0].ids) for row in rows)
    ids, labels = torch.zeros(3, length, dtype=torch.long), torch.full((3, length), -100)
    for i, row in enumerate(rows):
        whole = [*row.prompt, *row.responses[0].ids]
        ids[i, : len(whole)] = torch.tensor(whole)
        places = [len(row.prompt) + j - 1 for j, w in enumerate(row.responses[0].weights) if w]
        labels[i, places] = torch.tensor(row.step_labels).long()
    theirs = two(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    theirs.backward()
    for name, p in two.named_parameters():
        if not name.startswith("score") and p.grad is not None:
            torch.testing.assert_close(mine[name], p.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mine["score.weight"][0], two.score.weight.grad[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("aggregate", "make"),
    [
        ("min", lambda p: p.min()),
        ("last", lambda p: p[-1]),
        ("mean", lambda p: p.mean()),
        ("product", lambda p: p.prod()),
    ],
)
@torch.no_grad()
def test_an_answer_is_read_as_it_was_trained(base: Path, aggregate: Any, make: Any) -> None:
    """However the policy's tokens fell, the answer's text is cut at the separator."""
    model = new_reward_model(base, base, None, FULL, layers=None, seed=0)
    steps = [("boil it", "pour it over"), ("no",)]
    rows = tokens(model, *steps)
    want = [model.step_scores(pack([row])).sigmoid() for row in rows]
    model.steps = Steps("\n", aggregate, "bce")
    eos, template = model.template.eos_id, model.template
    letters = [i for step in steps[0] for c in f"{step}\n" for i in template.tokenizer(c)["input_ids"]]
    sampled = [
        answer_row("a", rows[0].prompt, letters, eos),
        answer_row("b", rows[1].prompt, template.encode_answer("no"), eos),
    ]
    for budget in (1, 10**6):
        found = score_rows(model, sampled, Budget(budget))
        assert [len(x) for x in found] == [1, 1]
        torch.testing.assert_close(torch.cat(found), torch.stack([make(p) for p in want]))
    both = TokenRow("both", rows[0].prompt, (sampled[0].responses[0], sampled[1].responses[0]))
    torch.testing.assert_close(score_rows(model, [both], Budget(64))[0], torch.cat(found))
    model.steps = Steps("\n", aggregate, "mse")
    raw = make(model.step_scores(pack(rows[:1])))
    torch.testing.assert_close(score_rows(model, sampled[:1], Budget(64))[0][0], raw)


@pytest.mark.parametrize("separator", ["\n", "\n\n", ";"])
def test_a_step_may_end_in_the_separator_or_in_spaces(base: Path, separator: str) -> None:
    """A step is trained on the tokens that it has when the answer's text is cut."""
    model = new_reward_model(base, base, None, FULL, layers=None, seed=0)
    template, eos = model.template, model.template.eos_id
    given = ("2+2=4\n", f" so 4 {separator}", f"{separator}then 5{separator}{separator} ", "\tdone  ")
    (row,) = tokens(model, given, separator=separator)
    weights, ids = row.responses[0].weights, row.responses[0].ids
    assert ids[-1] == eos
    assert sum(weights) == len(row.step_labels) == 4
    found = [part for part in template.decode(list(ids[:-1])).split(separator) if part.strip()]
    assert [part.strip() for part in found] == ["2+2=4", "so 4", "then 5", "done"]
    assert found[1:] == [" so 4", "then 5", "\tdone"]
    (plain,) = tokens(model, ("2+2=4", " so 4", "then 5", "\tdone"), separator=separator)
    assert row.responses == plain.responses

    seen: list[TokenRow] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "step_values", lambda reward, steps, rows, budget: seen.extend(rows) or [])
        reading.score_steps(model, Steps(separator, "mean", "bce"), [row], Budget(64))
    assert seen[0].responses == row.responses


@torch.no_grad()
def test_an_empty_answer_has_a_score(base: Path) -> None:
    model = new_reward_model(base, base, None, FULL, layers=None, seed=0)
    model.steps = READ
    (found,) = score_rows(
        model, [TokenRow("a", (5, 6), (Response((model.template.eos_id,), (1.0,)),))], Budget(64)
    )
    assert 0 < float(found[0]) < 1


def test_it_learns_steps_and_plain_transformers_reads_them(data: Path, tmp_path: Path, base: Path) -> None:
    made = stage(data, tmp_path / "runs", aggregate="product")
    made.prepare()
    (out := tmp_path / "out").mkdir()
    summary = made.run(out)
    found = summary["quality"]["steps"]
    assert found["accuracy"]["mean"] > 0.9 > found["usual_accuracy"]["mean"]
    assert found["order"] > 0.9
    assert summary["labels"] == sum(len(row.step_labels) for row in made.train.rows)
    assert json.loads((out / "process.json").read_text()) == {
        "separator": "\n", "aggregate": "product", "loss": "bce",
    }  # fmt: skip
    plain = AutoModelForTokenClassification.from_pretrained(out)
    template = made.ctx.recipe.model.template
    opened = open_reward_model(Artifact(out, None), base, template)  # type: ignore[arg-type]
    assert opened.steps == Steps("\n", "product", "bce")
    right = total = 0
    for row in made.held_out.rows:
        ids, weights = row.responses[0].ids, row.responses[0].weights
        places = [len(row.prompt) + i - 1 for i, w in enumerate(weights) if w]
        with torch.no_grad():
            logits = plain(torch.tensor([[*row.prompt, *ids]])).logits[0, places, 0]
            torch.testing.assert_close(opened.step_scores(pack([row])), logits, rtol=1e-4, atol=1e-5)
            (score,) = score_rows(opened, [row], Budget(64))
        torch.testing.assert_close(score[0], logits.sigmoid().prod(), rtol=1e-4, atol=1e-6)
        right += int(((logits > 0) == torch.tensor(row.step_labels).bool()).sum())
        total += len(places)
    assert total == found["steps"]
    assert right / total > 0.9


@pytest.mark.parametrize(
    ("labels", "given", "line"),
    [
        ([1, 1], {}, "steps: all steps have the label 1; give right and wrong steps"),
        ([1, 3], {}, "the label 3 is no probability; give 0 to 1, or stages.prm.loss=mse"),
        ([1, 3], {"loss": "mse"}, None),
    ],
)
def test_labels_that_cannot_be_learned(
    tmp_path: Path, labels: list[float], given: dict[str, Any], line: str | None
) -> None:
    path = tmp_path / "steps.jsonl"
    rows = [{"prompt": f"tea {n}?", "completions": ["a", "b"], "labels": labels} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = stage(path, tmp_path / "runs", **given)
    if line is None:
        assert made.prepare() == 4 * -(-len(made.train.rows) // 8)
        return
    with pytest.raises(DataError) as error:
        made.prepare()
    assert str(error.value).endswith(line)


def test_ppo_and_an_evaluation_read_it(data: Path, tmp_path: Path) -> None:
    stages = {
        "prm": {"kind": "process_reward", "data": str(data), "max_prompt": 32, "max_answer": 64},
        "ppo": {
            "kind": "rl", "policy": "base", "reward": "prm", "prompts": str(data), "max_prompt": 32,
            "iterations": 1, "prompts_per_iteration": 4, "epochs": 1, "minibatches": 1,
            "sampling": {"max_new_tokens": 8},
        },
        "eval": {
            "kind": "evaluate", "policies": ["base", "ppo"], "reward": "prm", "prompts": str(data),
            "max_prompt": 32, "limit": 4, "sampling": {"max_new_tokens": 8},
        },
    }  # fmt: skip
    (folder := tmp_path / "mine" / "recipe").mkdir(parents=True)
    recipe = {"defaults": [{"override /model": "tiny"}], "stages": stages}
    (folder / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    runs = f"runs={tmp_path / 'runs'}"
    assert main(["--config-dir", str(tmp_path / "mine"), "recipe=mine", "adapter=lora", runs]) == 0
    made = {a.stage: a for a in Store(tmp_path / "runs" / "artifacts").all()}
    assert made["prm"].manifest.kind == "reward"
    lines = (made["eval"].path / "samples.jsonl").read_text().splitlines()
    scores = [score for line in lines for score in json.loads(line)["rewards"].values()]
    assert scores
    assert all(0 < score < 1 for score in scores), "the least probability of a step"
    assert main(["export=prm", f"to={tmp_path / 'merged'}", "merge=true", runs]) == 0
    assert (tmp_path / "merged" / "process.json").read_text() == (
        made["prm"].path / "process.json"
    ).read_text()
