"""Each stage on a tiny model through the command line, with the options that change what it does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.store import Artifact, Store
from align.config.base import SamplingOptions
from align.config.stages import RewardOptions
from align.data import cards, tokenize
from align.data.types import Response, TokenRow
from align.models import adapters
from align.models.policy import open_policy
from align.models.reward_model import open_reward_model
from align.reward.score import answer_row, score_rows
from align.reward.types import Scores
from align.rollout.ends import Ends
from align.rollout.generate import generate
from align.run import main
from align.stages.dpo_objective import Preference
from align.stages.reward import ranking_loss
from align.stages.rl_round import Collector

SFT = {
    "kind": "sft",
    "data": {"card": "everyday_answers", "limit": 16},
    "max_prompt": 32,
    "max_answer": 24,
    "lr": 1e-3,
}
REWARD = {
    "kind": "reward", "data": {"card": "everyday_rankings", "limit": 8}, "max_prompt": 32, "max_answer": 24,
    "batch_size": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(tmp_path: Path, stages: dict[str, Any], *overrides: str) -> dict[str, Artifact]:
    """Run a recipe of one's own and return its artifacts by stage."""
    folder = tmp_path / "mine" / "recipe"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"defaults": [{"override /model": "tiny"}], "stages": stages}
    (folder / "mine.yaml").write_text("# @package _global_\n" + json.dumps(recipe))
    arguments = [
        "--config-dir",
        str(tmp_path / "mine"),
        "recipe=mine",
        f"runs={tmp_path / 'runs'}",
        *overrides,
    ]
    assert main(arguments) == 0
    return {a.stage: a for a in Store(tmp_path / "runs" / "artifacts").all()}


def summary(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "summary.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("adapter", ["none", "lora", "dora", "ia3", "prompt_tuning", "prefix_tuning"])
def test_sft_learns_to_imitate(tmp_path: Path, adapter: str) -> None:
    many = adapter in ("none", "lora", "dora")  # of the others only a few numbers learn
    lr, falls = (5e-3, 0.05) if many else (1e-1, 0.005)
    made = run(tmp_path, {"sft": {**SFT, "epochs": 4, "lr": lr}}, f"adapter={adapter}")
    got = summary(made["sft"])
    assert got["after"]["nll"] < got["before"]["nll"] - falls
    assert (made["sft"].path / "adapter_config.json").exists() == (adapter != "none")
    rows = [json.loads(line) for line in (made["sft"].path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert rows[0]["loss"] == pytest.approx(got["before"]["nll"], rel=0.15)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_sft_learns_with_muon(tmp_path: Path, adapter: str) -> None:
    sft = {**SFT, "epochs": 4, "lr": 2e-2, "optimizer": "muon"}
    got = summary(run(tmp_path, {"sft": sft}, f"adapter={adapter}")["sft"])
    assert got["after"]["nll"] < got["before"]["nll"] - 0.05


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalise": "sequence", "neftune_alpha": 5.0},
        {"train_on": "all", "label_smoothing": 0.1},
        {"train_on": "last", "loss": "dft"},
    ],
    ids=str,
)
def test_micro_batches_change_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    weights, losses = [], []
    for budget in (64, 4096):
        sft = {**SFT, **options, "tokens_per_microbatch": budget}
        made = run(tmp_path / str(budget), {"sft": sft}, "adapter=none")
        weights.append(load_file(made["sft"].path / "model.safetensors"))
        losses.append([row["loss"] for row in metrics(made["sft"])])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in weights[0].items():  # two steps of 1e-3; AdamW makes steps of the rounding near 0
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_sft_in_bfloat16_differs_by_its_rounding(tmp_path: Path, adapter: str) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        made = run(tmp_path / dtype, {"sft": SFT}, f"adapter={adapter}", f"hardware.dtype={dtype}")
        found[dtype] = [row["loss"] for row in metrics(made["sft"])]
        name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
        kept = "bfloat16" if (adapter, dtype) == ("none", "bfloat16") else "float32"
        assert {str(x.dtype) for x in load_file(made["sft"].path / name).values()} == {f"torch.{kept}"}
        assert made["sft"].manifest.ingredients["dtype"] == dtype
        if adapter == "none":
            assert json.loads((made["sft"].path / "config.json").read_text())["dtype"] == kept
    assert found["float32"] != found["bfloat16"]
    assert found["float32"] == pytest.approx(found["bfloat16"], rel=2**-8)


@pytest.mark.parametrize("adapter", ["ia3", "prompt_tuning", "prefix_tuning"])
def test_noise_and_bfloat16_go_with_every_kind_of_adapter(tmp_path: Path, adapter: str) -> None:
    sft = {**SFT, "neftune_alpha": 5.0}
    made = run(tmp_path, {"sft": sft}, f"adapter={adapter}", "hardware.dtype=bfloat16")
    saved = load_file(made["sft"].path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


@pytest.mark.parametrize("adapter", ["none", "lora", "dora"])
def test_every_stage_runs_in_bfloat16(tmp_path: Path, adapter: str) -> None:
    ppo = {
        "kind": "rl", "policy": "dpo", "reward": "reward", "prompts": "everyday_prompts", "iterations": 1,
        "prompts_per_iteration": 4, "epochs": 1, "minibatches": 2, "max_prompt": 32,
        "sampling": {"max_new_tokens": 8}, "lr": 1e-3,
    }  # fmt: skip
    evaluate = {
        "kind": "evaluate", "policies": ["sft", "ppo"], "reward": "reward", "prompts": "everyday_prompts",
        "limit": 4, "max_prompt": 32, "sampling": {"max_new_tokens": 8},
    }  # fmt: skip
    stages = {
        "sft": SFT,
        "reward": {**REWARD, "model": "sft", "head_init": "fit"},
        "dpo": {**DPO, "epochs": 1},
        "ppo": ppo,
        "eval": evaluate,
    }
    made = run(tmp_path, stages, f"adapter={adapter}", "hardware.dtype=bfloat16")
    assert len(made) == 5
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    head = next(x for n, x in load_file(made["reward"].path / name).items() if "score" in n)
    assert head.dtype == (torch.bfloat16 if adapter == "none" else torch.float32)


@pytest.mark.parametrize(("adapter", "dtype"), [("lora", "float32"), ("dora", "bfloat16")])
def test_every_stage_trains_on_a_base_in_4_bits(tmp_path: Path, adapter: str, dtype: str) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    ppo = {
        "kind": "ppo", "policy": "dpo", "reward": "reward", "prompts": "everyday_prompts", "iterations": 1,
        "prompts_per_iteration": 4, "epochs": 1, "minibatches": 2, "max_prompt": 32,
        "sampling": {"max_new_tokens": 8}, "lr": 1e-3,
    }  # fmt: skip
    stages = {
        "sft": {**SFT, "epochs": 4, "lr": 5e-3},
        "reward": {**REWARD, "model": "sft", "head_init": "fit"},
        "dpo": DPO,
        "kto": {**DPO, "kind": "kto"},
        "ppo": ppo,
    }
    options = [f"adapter.kind={adapter}", f"hardware.dtype={dtype}", "model.hidden=64"]
    made = run(tmp_path, stages, "adapter=qlora", *options)
    told = {name: summary(artifact) for name, artifact in made.items()}
    assert told["sft"]["after"]["nll"] < told["sft"]["before"]["nll"] - 0.05
    first, last = (metrics(made["dpo"])[at]["loss"] for at in (0, -1))
    assert last < first - 0.05
    assert first == pytest.approx(math.log(2), abs=1e-5)
    assert metrics(made["kto"])[-1]["rewards/margins"] > 0.1
    for artifact in made.values():
        saved = load_file(artifact.path / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
        assert artifact.manifest.ingredients["adapter.quantize_base"] == "nf4"
        config = artifact.path / "config.json"
        assert not config.exists() or "quantization_config" not in json.loads(config.read_text())


def test_noise_is_part_of_training_alone(tmp_path: Path) -> None:
    """It changes what is learned, and nothing of what is measured before."""
    plain, noisy = (
        summary(run(tmp_path / str(alpha), {"sft": {**SFT, "neftune_alpha": alpha}})["sft"])
        for alpha in (0.0, 50.0)
    )
    assert plain["before"] == noisy["before"]
    assert plain["after"]["nll"] != noisy["after"]["nll"]


def test_plain_texts_are_learned_window_by_window(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("The cat sat on the mat and the dog lay on the log. " * 20)
    sft = {**SFT, "data": str(book), "epochs": 5, "lr": 1e-2}
    made = run(tmp_path, {"sft": sft}, "adapter=none")
    rows = metrics(made["sft"])
    assert summary(made["sft"])["rows"] > 8, "windows"
    assert rows[-1]["loss"] < rows[0]["loss"] - 1.0


@pytest.mark.parametrize(
    "options", [{"loss": "plackett_luce"}, {"centring": 0.1}, {"layers": 1}, {"head_init": "fit"}]
)
def test_reward_variants_run_and_open(tmp_path: Path, options: dict[str, Any]) -> None:
    made = run(tmp_path, {"sft": SFT, "reward": {**REWARD, "model": "sft", **options}})
    quality = summary(made["reward"])["quality"]
    assert 0 <= quality["accuracy"]["low"] <= quality["accuracy"]["mean"] <= quality["accuracy"]["high"] <= 1
    assert set(quality["baselines"]) == {"length", "bag_of_words"}
    config = json.loads((made["reward"].path / "config.json").read_text())
    assert config["num_hidden_layers"] == options.get("layers", 2)


def test_dpo_starts_at_its_reference_and_moves_away(tmp_path: Path) -> None:
    data = {"card": "everyday_rankings", "limit": 16}
    dpo = {"kind": "dpo", "model": "sft", "data": data, "lr": 1e-2, "epochs": 4,
           "max_prompt": 32, "max_answer": 24}  # fmt: skip
    made = run(tmp_path, {"sft": SFT, "dpo": dpo})
    rows = [json.loads(line) for line in (made["dpo"].path / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert rows[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["loss"] < 0.6
    assert rows[-1]["rewards/accuracies"] > 0.8


DPO = {"kind": "dpo", "model": "sft", "data": {"card": "everyday_rankings", "limit": 16}, "lr": 1e-2,
       "epochs": 4, "max_prompt": 32, "max_answer": 24}  # fmt: skip


def metrics(artifact: Artifact) -> list[dict[str, float]]:
    return [json.loads(line) for line in (artifact.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "aot"},
        {"loss": {"sigmoid": 1.0, "nll": 0.2}},
        {"loss": "sigmoid_norm", "beta": 5.0, "divergence": "js"},
        {"ld_alpha": 0.5},
    ],
    ids=str,
)
def test_dpo_variants_learn(tmp_path: Path, options: dict[str, Any]) -> None:
    made = run(tmp_path, {"sft": SFT, "dpo": {**DPO, **options}})
    rows = metrics(made["dpo"])
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert rows[-1]["rewards/margins"] > 0.1
    assert summary(made["dpo"])["held_out"]["n"] > 0


@pytest.mark.parametrize("recipe", ["dpo_listwise", "simpo", "orpo", "dpo"])
def test_preference_recipes_on_a_tiny_model(tmp_path: Path, recipe: str) -> None:
    stage = recipe if recipe in ("simpo", "orpo") else "dpo"
    small = [f"stages.{stage}.{key}" for key in ("data={card: everyday_rankings, limit: 16}", "lr=1e-2",
             "epochs=4", "max_prompt=32", "max_answer=24")]  # fmt: skip
    if recipe != "orpo":
        small += ["stages.sft.data={card: everyday_answers, limit: 16}", "stages.sft.max_answer=24"]
    arguments = [f"recipe={recipe}", "model=tiny", "adapter=lora", f"runs={tmp_path / 'runs'}", *small]
    assert main(arguments) == 0
    made = {a.stage: a for a in Store(tmp_path / "runs" / "artifacts").all()}
    rows = metrics(made[stage])
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.05
    assert rows[-1]["rewards/accuracies"] > 0.7
    assert (made[stage].path / "adapter_config.json").exists()


def test_whole_rankings_are_one_forward_and_start_at_chance(tmp_path: Path) -> None:
    made = run(tmp_path, {"sft": SFT, "dpo": {**DPO, "loss": "plackett_luce", "max_answers": 3}})
    rows, told = metrics(made["dpo"]), summary(made["dpo"])
    assert told["answers"] > 2 * told["rows"], "more than pairs"
    assert rows[0]["rewards/accuracies"] == pytest.approx(0.5, abs=1e-6)
    # Three answers: one of 6 orders, or 3 tied pairs of one sort, and never more.
    assert math.log(2) - 1e-5 <= rows[0]["loss"] <= math.log(6) + 1e-5


def test_a_loss_that_compares_pairs_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for tokens in (4096, 16):  # 16 would cut every step into single pairs
        monkeypatch.setattr("align.models.opened.AUTO", tokens)
        made = run(tmp_path / str(tokens), {"dpo": {**DPO, "model": "base", "loss": "aot", "epochs": 2}})
        found.append(
            [row["loss"] for row in metrics(made["dpo"])] + [summary(made["dpo"])["held_out"]["loss"]]
        )
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_without_a_reference_none_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("the reference was asked for")

    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))  # where none are kept yet
    monkeypatch.setattr(Preference, "reference", refuse)
    made = run(tmp_path, {"sft": SFT, "dpo": {**DPO, "loss": "simpo", "beta": 2.0, "epochs": 1}})
    assert summary(made["dpo"])["steps"] == 2
    with pytest.raises(AssertionError):
        run(tmp_path, {"sft": SFT, "dpo": {**DPO, "epochs": 1}})
    assert "the reference was asked for" in capsys.readouterr().err


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_taken_out_of_the_base_is_its_own_reference(tmp_path: Path, init: str) -> None:
    """DPO and PPO from the base: policy and reference are one at step 0, which both stages check."""
    ppo = {
        "kind": "rl", "policy": "base", "reward": "reward", "prompts": "everyday_prompts", "iterations": 2,
        "prompts_per_iteration": 4, "epochs": 1, "minibatches": 1, "max_prompt": 32,
        "sampling": {"max_new_tokens": 8}, "lr": 1e-2,
    }  # fmt: skip
    stages = {"dpo": {**DPO, "model": "base"}, "reward": {**REWARD, "model": "base"}, "ppo": ppo}
    run(tmp_path / "default", stages, "adapter=lora")  # its log-probs of the base lie in the cache
    made = run(tmp_path / init, stages, "adapter=lora", "adapter.r=8", f"adapter.init={init}")
    for stage in ("dpo", "ppo"):
        fields = json.loads((made[stage].path / "adapter_config.json").read_text())
        assert (fields["r"], fields["lora_alpha"], fields["init_lora_weights"]) == (16, 64, True)
    first = metrics(made["dpo"])[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics(made["ppo"])[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


def test_a_policy_that_is_not_its_reference_is_refused_at_step_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = Preference.reference

    def wrong(*args: Any) -> dict[str, torch.Tensor]:
        return {name: x + torch.arange(len(x)) for name, x in right(*args).items()}

    monkeypatch.setattr(Preference, "reference", wrong)
    for loss in ("sigmoid", "ipo", "bradley_terry"):
        monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / loss))  # neither read nor left to others
        with pytest.raises(AssertionError):
            run(tmp_path, {"dpo": {**DPO, "model": "base", "loss": loss}})
        assert "the loss and that of policy = reference differ" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_ppo_full_and_lora_leave_the_reward_model_alone(tmp_path: Path, adapter: str) -> None:
    ppo = {
        "kind": "rl", "policy": "sft", "reward": "reward", "prompts": "everyday_prompts", "iterations": 2,
        "prompts_per_iteration": 4, "samples_per_prompt": 2, "epochs": 1, "minibatches": 2, "max_prompt": 32,
        "sampling": {"max_new_tokens": 8}, "lr": 1e-3, "critic_init": "fit", "critic_warmup": 1,
    }  # fmt: skip
    made = run(tmp_path, {"sft": SFT, "reward": {**REWARD, "model": "sft"}, "ppo": ppo}, f"adapter={adapter}")
    name = "model.safetensors" if adapter == "none" else "adapter_model.safetensors"
    before, after = load_file(made["sft"].path / name), load_file(made["ppo"].path / name)
    assert set(before) == set(after), "the policy's artifact holds a policy, no critic and no reference"
    moved = max(float((before[n] - after[n]).abs().max()) for n in before)
    assert moved > 1e-4
    rows = [json.loads(line) for line in (made["ppo"].path / "metrics.jsonl").read_text().splitlines()]
    assert "loss/policy" not in rows[0], "the critic warms up alone"
    assert "loss/policy" in rows[1]
    assert rows[1]["objective/kl"] == pytest.approx(0.0, abs=1e-3), (
        "so the policy has not moved before round 2"
    )


@pytest.mark.parametrize("adapter", ["none", "lora", "ia3", "prompt_tuning", "prefix_tuning"])
def test_ppos_samples_are_of_its_starting_point_and_of_what_it_saved(tmp_path: Path, adapter: str) -> None:
    """Before and after, each answered again by the artifact that it stands for, and scored again."""
    ppo = {
        "kind": "rl", "policy": "sft", "reward": "reward", "prompts": "everyday_prompts", "iterations": 2,
        "prompts_per_iteration": 4, "epochs": 1, "minibatches": 1, "max_prompt": 32,
        "sampling": {"max_new_tokens": 8}, "lr": 5e-2,
    }  # fmt: skip
    sft = {**SFT, "epochs": 4, "lr": 5e-3}
    stages = {"sft": sft, "reward": {**REWARD, "model": "sft"}, "ppo": ppo}
    made = run(tmp_path, stages, "seed=5", f"adapter={adapter}")
    lines = [json.loads(line) for line in (made["ppo"].path / "samples.jsonl").read_text().splitlines()]
    base = made["sft"].path if adapter == "none" else Path(adapters.base_of(made["sft"].path))
    reward = open_reward_model(made["reward"], base, "chatml")
    data = cards.load("everyday_prompts", "prompts", "train")
    prompts = {
        row.id: row for row in tokenize.prompts(data, reward.template, max_prompt=32, max_drop=0.0).rows
    }
    rows, eos = [prompts[line["id"]] for line in lines], reward.template.eos_id
    sampling, ends = SamplingOptions(max_new_tokens=8), Ends((eos,), decode=reward.template.decode)
    for side, stage in (("before", "sft"), ("after", "ppo")):
        policy = open_policy(made[stage], base, "chatml", None)
        answers = generate(policy.plain, rows, sampling, ends, seed=5)
        texts = [ends.text(answer) for answer in answers]
        assert [line[side] for line in lines] == texts
        scored = [answer_row(a.id, a.prompt, a.ids, eos) for a in answers]
        scores = torch.cat(score_rows(reward, scored, reward.budget(4096))).tolist()
        assert [line[f"score_{side}"] for line in lines] == pytest.approx(scores, abs=1e-5)
    assert any(line["before"] != line["after"] for line in lines)


def test_ppo_refuses_a_reward_that_tells_no_answers_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Collector, "score", lambda task, rollouts: Scores(torch.full((len(rollouts),), 0.5)))
    ppo = {
        "kind": "rl", "policy": "base", "reward": "reward", "prompts": "everyday_prompts", "max_prompt": 32,
        "prompts_per_iteration": 4, "iterations": 1, "sampling": {"max_new_tokens": 4},
    }  # fmt: skip
    with pytest.raises(AssertionError):
        run(tmp_path, {"reward": REWARD, "ppo": ppo})
    told = "ppo: all 4 answers of the first round score 0.5; look at the reward model, and at the samples"
    assert told in " ".join(capsys.readouterr().err.split())


def test_margin_of_a_row_does_not_depend_on_its_micro_batch() -> None:
    def row(name: str, ratings: tuple[float, ...]) -> TokenRow:
        return TokenRow(name, (1,), (Response((2,), (1.0,)),) * 2, tiers=(0, 1), ratings=ratings)

    options = RewardOptions(kind="reward", data="x", margin=2.0)
    scores = torch.tensor([1.0, 0.0, 0.5, 0.25])
    rows = [row("a", (1.0, 0.0)), row("b", ())]
    together = ranking_loss(scores, rows, options).total
    alone = (
        ranking_loss(scores[:2], rows[:1], options).total + ranking_loss(scores[2:], rows[1:], options).total
    )
    torch.testing.assert_close(together, alone)
    by_hand = torch.nn.functional.softplus(torch.tensor(-(1.0 - 2.0))) + torch.nn.functional.softplus(
        torch.tensor(-0.25)
    )
    torch.testing.assert_close(together, by_hand)
