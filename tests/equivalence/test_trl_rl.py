"""One update on given rollouts against TRL's own GRPOTrainer and RLOOTrainer: each part chosen by name.

The policy has moved since the answers were sampled, and the reference is a third model, so that ratios clip
and divergences are not 0. Where TRL defines a number otherwise, the relation is what is tested, and
docs/algorithms.md names it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl_rollouts import (
    ANSWERS,
    CUT,
    LIMIT,
    NUMBERS,
    PROMPTS,
    SIZE,
    TEMPERATURE,
    Given,
    Side,
    given,
    jolt,
    our_task,
    update,
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

MOVED, AWAY = 0.03, 0.02  # of each weight, since sampling and from the reference
BETA = 0.3


def reference_of(base: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(base).eval().requires_grad_(False)
    jolt(model, AWAY, 7)
    return model  # type: ignore[no-any-return]


def with_given_answers(kind: type[Any], what: Given) -> type[Any]:
    """TRL's trainer without its tokenising and sampling."""
    prompts = [list(prompt) for prompt in what.prompts for _ in range(SIZE)]
    answers = [list(ids) for ids in what.answers]

    class WithGivenAnswers(kind):  # type: ignore[misc]
        def _tokenize_prompts(self, _: Any) -> tuple[Any, None, dict[str, Any]]:
            return prompts, None, {}

        def _generate_single_turn(self, *_: Any) -> Any:
            return (answers, None) if kind is GRPOTrainer else answers

    return WithGivenAnswers


def theirs(
    kind: type[Any], base: Path, folder: Path, what: Given, move: Callable[[Any], None], **options: Any
) -> tuple[Side, Any, dict[str, Any]]:
    """Their advantages, loss and gradients; also the trainer and what it made of the answers."""
    config = {GRPOTrainer: GRPOConfig, RLOOTrainer: RLOOConfig}[kind]
    if kind is GRPOTrainer:  # else its divergence is times the ratio, which ours is not
        options = {"use_bias_correction_kl": False, **options}
    trainer = with_given_answers(kind, what)(
        model=AutoModelForCausalLM.from_pretrained(base),
        reward_funcs=lambda **_: what.scores,
        args=config(**{
            "output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False, "report_to": "none",
            "gradient_checkpointing": False, "per_device_train_batch_size": ANSWERS, "num_iterations": 2,
            "num_generations": SIZE, "max_completion_length": LIMIT, "temperature": TEMPERATURE,
            "beta": BETA, **options,
        }),
        train_dataset=Dataset.from_list([{"prompt": f"p{n}"} for n in range(PROMPTS)]),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    if trainer.ref_model is not None:
        reference = reference_of(base).state_dict()
        trainer.ref_model.load_state_dict(reference)
    inputs = trainer._generate_and_score_completions(
        [{"prompt": f"p{n}"} for n in range(PROMPTS) for _ in range(SIZE)]
    )
    move(trainer.model)
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    kl = trainer._metrics["train"]["kl"][0] if options.get("beta", BETA) else 0.0
    return Side(inputs["advantages"], float(loss.detach()), kl, gradients), trainer, inputs


def moved(model: torch.nn.Module) -> None:
    jolt(model, MOVED, 11)


def ours(base: Path, what: Given, move: Callable[[Any], None] = moved, **options: Any) -> tuple[Side, Any]:
    """Ours, and what the metrics of the update say."""
    task = our_task(
        base, what, reference_of(base), **{"kl": "k3", "kl_in": "loss", "kl_coef": BETA, **options}
    )
    task.now = task.collector.collect(1)
    move(task.policy.model)
    now, loss, metrics = update(task)
    gradients = {n: p.grad for n, p in task.policy.model.named_parameters() if p.grad is not None}
    return Side(
        now.advantages, loss, metrics.get("loss/kl", now.metrics.get("objective/kl", 0.0)), gradients
    ), (
        now,
        metrics,
    )


def per_token(side: Side, mask: Tensor) -> Tensor:
    """[S] their advantage of an answer stands at each of its tokens."""
    return side.advantages[:, None] * mask


def assert_gradients(mine: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(mine) == set(other)
    apart = sum(float((mine[name] - g).square().sum()) for name, g in other.items()) ** 0.5
    size = sum(float(g.square().sum()) for g in other.values()) ** 0.5
    assert size > 0
    assert apart <= NUMBERS * size, f"gradients are {apart / size:.1e} of their size apart"


def assert_same(mine: Side, other: Side, mask: Tensor) -> None:
    assert torch.allclose(mine.advantages, per_token(other, mask), rtol=NUMBERS, atol=1e-6)
    # Its terms are about 1, as advantages are, and nearly cancel out in some cases: 1e-6 is rounding.
    assert mine.loss == pytest.approx(other.loss, rel=NUMBERS, abs=1e-6)
    assert mine.kl == pytest.approx(other.kl, rel=NUMBERS, abs=0)
    assert_gradients(mine.gradients, other.gradients)


GRPO = {"advantage": "grpo", "normalise": "sequence"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": (GRPO, {"loss_type": "grpo"}),
    "bnpo": ({**GRPO, "normalise": "token"}, {"loss_type": "bnpo"}),
    "dapo": (
        {**GRPO, "normalise": "token", "clip_high": 0.28},
        {"loss_type": "dapo", "epsilon_high": 0.28},
    ),
    "dr_grpo": (
        {"advantage": "dr_grpo", "normalise": "constant"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
    ),
    # TRL's epsilon_high is the largest weight itself, not what is above 1.
    "cispo": (
        {**GRPO, "normalise": "token", "loss": "cispo", "clip_high": 0.3},
        {"loss_type": "cispo", "epsilon_high": 1.3},
    ),
    "gspo": (
        {**GRPO, "ratio": "geometric_mean", "clip": 0.02, "clip_high": 0.05},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.05},
    ),
    "dual_clip": ({**GRPO, "dual_clip": 1.3}, {"loss_type": "grpo", "delta": 1.3}),
    "entropy": (
        {**GRPO, "normalise": "token", "entropy_coef": 0.2},
        {"loss_type": "bnpo", "entropy_coef": 0.2},
    ),
    "without_kl": ({**GRPO, "kl": "none"}, {"loss_type": "grpo", "beta": 0.0}),
}


@pytest.mark.parametrize("name", list(CASES))
def test_grpo(base: Path, tmp_path: Path, name: str) -> None:
    mine_options, their_options = CASES[name]
    what = given()
    mine, (now, metrics) = ours(base, what, **mine_options)
    other, _, _ = theirs(GRPOTrainer, base, tmp_path, what, moved, **their_options)
    assert_same(mine, other, now.mask)
    assert 0.1 < metrics["policy/clipfrac"] < 0.9, "the test should see clipped and unclipped tokens"


@pytest.mark.parametrize(
    "changed",
    [{"clip": 0.25}, {"dual_clip": 1.3}, {"kl_coef": 0.31}, {"normalise": "token"}, {"ratio": "product"},
     {"entropy_coef": 0.1}, {"advantage": "dr_grpo"}, {"kl": "k2"}],
    ids=str,
)  # fmt: skip
def test_each_part_matters_here(base: Path, changed: dict[str, Any]) -> None:
    """Else the comparisons above could not see it."""
    plain, other = (ours(base, given(), **{**GRPO, **more})[0] for more in ({}, changed))
    assert other.loss != pytest.approx(plain.loss, rel=100 * NUMBERS)


def test_answers_that_are_cut_can_be_left_out(base: Path, tmp_path: Path) -> None:
    what = given(cut=CUT)
    token = {**GRPO, "normalise": "token", "drop_cut": True}
    mine, (now, _) = ours(base, what, **token)
    other, _, _ = theirs(
        GRPOTrainer, base, tmp_path, what, moved, loss_type="dapo", mask_truncated_completions=True
    )
    assert now.learns.tolist() == [i not in CUT for i in range(ANSWERS)]
    assert_same(mine, other, now.mask)


def test_a_mean_over_answers_is_over_those_that_learn(base: Path, tmp_path: Path) -> None:
    """TRL divides by all answers, and so weakens the rest by those that it leaves out."""
    what = given(cut=CUT)
    mine, _ = ours(base, what, **GRPO, drop_cut=True)
    other, _, _ = theirs(
        GRPOTrainer, base, tmp_path, what, moved, loss_type="grpo", mask_truncated_completions=True
    )
    weaker = (ANSWERS - len(CUT)) / ANSWERS
    assert mine.loss * weaker == pytest.approx(other.loss, rel=NUMBERS, abs=0)
    assert_gradients({name: g * weaker for name, g in mine.gradients.items()}, other.gradients)


def test_the_entropy_is_weighted_as_the_loss(base: Path, tmp_path: Path) -> None:
    """TRL takes its mean over tokens whatever the loss does; the two are one where `normalise` is token."""
    what, coef = given(), 0.2
    mine, with_bonus = (ours(base, what, **GRPO, entropy_coef=c)[0] for c in (0.0, coef))
    _, trainer, inputs = theirs(GRPOTrainer, base, tmp_path, what, moved, loss_type="grpo")
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = inputs["completion_mask"]
    _, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.cat([inputs["prompt_mask"], mask], 1), mask.shape[1], compute_entropy=True
    )
    of_answers = ((entropies * mask).sum(1) / mask.sum(1)).mean()
    of_tokens = (entropies * mask).sum() / mask.sum()
    assert mine.loss - with_bonus.loss == pytest.approx(coef * float(of_answers), rel=1e-4)
    assert abs(float(of_answers - of_tokens)) > 1e-3, "the test should see the difference"


def test_the_divergence_is_not_weighted_by_the_ratio(base: Path, tmp_path: Path) -> None:
    """TRL's default multiplies each token's k3 by rho, and lets the gradient through it."""
    what = given()
    mine, _ = ours(base, what, **GRPO)
    other, trainer, inputs = theirs(
        GRPOTrainer, base, tmp_path, what, moved, loss_type="grpo", use_bias_correction_kl=True
    )
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = inputs["completion_mask"]
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.cat([inputs["prompt_mask"], mask], 1), mask.shape[1]
    )
    below = inputs["ref_per_token_logps"] - logps
    each = (below.exp() - below - 1) * ((logps - inputs["old_per_token_logps"]).exp() - 1) * mask
    more = BETA * float((each.sum(1) / mask.sum(1)).mean())
    assert mine.loss + more == pytest.approx(other.loss, rel=NUMBERS, abs=0)
    assert abs(more) > 1e-2, "the test should see the difference"


RLOO = {"advantage": "rloo", "ratio": "product", "normalise": "sequence", "kl": "k1", "kl_in": "reward"}


@pytest.mark.parametrize(
    ("mine_more", "their_more"),
    [({}, {}), ({"reward_clip": 0.5}, {"reward_clip_range": (-0.5, 0.5)}), ({"kl_coef": 0.0}, {"beta": 0.0})],
    ids=["rloo", "clipped_reward", "without_kl"],
)
def test_rloo(base: Path, tmp_path: Path, mine_more: dict[str, Any], their_more: dict[str, Any]) -> None:
    """RLOO with clipping: one ratio for the whole answer; the divergence is in the reward."""
    what = given()

    def little(model: torch.nn.Module) -> None:
        jolt(model, MOVED / 4, 11)

    mine, (now, metrics) = ours(base, what, little, **{**RLOO, **mine_more})
    other, _, inputs = theirs(RLOOTrainer, base, tmp_path, what, little, **their_more)
    if mine_more.get("kl_coef", BETA):
        # Ours is of a whole answer, theirs of a token.
        tokens = float(inputs["completion_mask"].sum())
        assert now.metrics["objective/kl"] == pytest.approx(other.kl * tokens / ANSWERS, rel=NUMBERS)
    other.kl = mine.kl
    assert_same(mine, other, now.mask)
    assert 0.1 < metrics["policy/clipfrac"] < 0.9


def test_rloo_whitened(base: Path, tmp_path: Path) -> None:
    """TRL's moments are over answers, with n - 1; ours are over tokens, with n.

    Where all answers are of one length the two differ by that factor, and by TRL's 1e-4 beside the std.
    """
    what = given(lengths=(5, 5))
    mine, (now, _) = ours(base, what, **RLOO, whiten=True)
    plain, _, _ = theirs(RLOOTrainer, base, tmp_path / "plain", what, moved)
    other, _, _ = theirs(RLOOTrainer, base, tmp_path / "white", what, moved, normalize_advantages=True)
    std = float(plain.advantages.std())
    factor = (std + 1e-4) / std * (ANSWERS / (ANSWERS - 1)) ** 0.5
    assert torch.allclose(mine.advantages, factor * per_token(other, now.mask), rtol=NUMBERS, atol=1e-5)
