"""Twenty steps of each supervised stage against TRL's trainers, on the same token rows in the same order.

Our side is the stage itself, from token rows to artifact. TRL's side opens the same base folder through plain
transformers and peft: nothing of Align's models, batches, losses or loop stands on it. Both must agree in the
loss, gradient norm (AdamW hides the scale of a gradient) and learning rate of every step, and in every weight
at the end.

What differs by design, and how the tests deal with it:

* Warm-up: the first step of transformers has learning rate 0, that of Align the first part of the rise.
  Without a warm-up the schedules are the same numbers; with one, from its end on (`test_schedules`).
* Clipping: TRL clips all gradients of a stage together, and so does Align with a reward model's body and
  head; the limit bites in some steps.
* Padding: transformers reads a reward at the last token that is not padding, and never changes the embedding
  of the pad token that a model is loaded with. So TRL's classifier is loaded with a pad token other than EOS.
* Cutting: TRL cuts a step into equal parts, Align by a budget of tokens. Any cut must give the same step.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset as Columns
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    get_scheduler,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from align.artifacts.manifest import Manifest, describe
from align.artifacts.store import Artifact, Store
from align.config.schema import LoraAdapter, NoAdapter, PathModel
from align.config.stages import DpoOptions, KtoOptions, RewardOptions, SftOptions
from align.data.order import epoch_order
from align.data.tokenize import Tokenised
from align.data.types import Dataset, Response, TokenRow
from align.models.policy import load_template
from align.models.tiny import build_tokenizer
from align.stages.base import StageContext
from align.stages.dpo import Dpo
from align.stages.kto import Kto
from align.stages.reward import Reward
from align.stages.sft import Sft
from align.training.optim import factor

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*")

STEPS, BATCH, SEED = 20, 4, 5
NUMBERS = 2e-5  # relative, of the loss and of the gradient norm
# How far the two ends lie apart over how far it came. One tensor may be further off than all together, since
# AdamW makes steps of the rounding of a gradient next to 0. TRL, cut otherwise, differs as much from itself.
WEIGHTS, ONE_TENSOR = 1e-4, 1e-3
WHOLE, CUT = 10**6, 64  # padded tokens of a micro-batch: the whole step, or two to four sequences
FULL, LORA = NoAdapter(kind="none"), LoraAdapter(kind="lora", r=4, alpha=12)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PAD, EOS, FIRST, VOCABULARY = 0, 2, 3, 300  # of the tokenizer; words are drawn from FIRST on
HIDDEN, BETA, DECAY = 32, 0.3, 0.1


@dataclass(frozen=True)
class Case:
    """One way to set both sides up.

    Attributes:
        rows: Times `epochs` they make 20 steps; 78 leave two rows to the last step.
        budget: Padded tokens of our micro-batches.
        parts: TRL's micro-batches of a step.
    """

    adapter: NoAdapter | LoraAdapter
    schedule: str
    rows: int = 40
    epochs: int = 2
    budget: int = WHOLE
    parts: int = 1

    def __str__(self) -> str:
        cut = "we_cut" if self.budget == CUT else f"trl_cuts_by_{self.parts}"
        return f"{self.adapter.kind}-{self.schedule}-{self.rows}_rows-{cut}"


CASES = [
    Case(FULL, "constant", budget=CUT),
    Case(FULL, "linear", parts=2),
    Case(LORA, "cosine", rows=78, epochs=1, budget=CUT),
    Case(LORA, "constant", parts=4),
]


@dataclass
class Trace:
    """The numbers of each step, and what learned at the end."""

    steps: list[dict[str, float]]
    weights: dict[str, Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-probs under a reference are kept between stages, and are to be computed here."""
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Llama, its weights wide enough for each part to matter."""
    folder = tmp_path_factory.mktemp("base")
    tokens = build_tokenizer(VOCABULARY)
    assert tokens.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [PAD, EOS]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, initializer_range=0.15,
        bos_token_id=1, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        # As the pad token it is 0 in a new model, where RMSNorm would blow its gradient up.
        model.model.embed_tokens.weight[EOS].normal_(std=0.15)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def words(draw: random.Random, low: int, high: int) -> tuple[int, ...]:
    return tuple(draw.randrange(FIRST, VOCABULARY) for _ in range(draw.randint(low, high)))


def conversations(count: int) -> list[TokenRow]:
    """Rows of uneven length; every third has a turn of the user inside its response, which is not scored."""
    draw, rows = random.Random(1), []
    for n in range(count):
        prompt, ids = words(draw, 2, 10), (*words(draw, 1, 12), EOS)
        weights = (1.0,) * len(ids)
        if n % 3 == 0:
            asked = words(draw, 1, 5)
            ids, weights = (*ids, *asked, *ids), (*weights, *(0.0,) * len(asked), *weights)
        rows.append(TokenRow(f"r{n}", prompt, (Response(ids, weights),)))
    return rows


def pairs(count: int, prompt: tuple[int, int] = (2, 10), chosen: tuple[int, int] = (1, 12)) -> list[TokenRow]:
    """Prompts, a better and a worse answer, either of them the longer; fewest and most words are given."""
    draw, rows = random.Random(2), []
    for n in range(count):
        asked, answers = words(draw, *prompt), [(*words(draw, *size), EOS) for size in (chosen, (1, 12))]
        responses = tuple(Response(ids, (1.0,) * len(ids)) for ids in answers)
        ratings = (draw.randint(3, 5) / 2, draw.randint(0, 2) / 2)
        rows.append(TokenRow(f"r{n}", asked, responses, tiers=(0, 1), ratings=ratings))
    return rows


def columns(case: Case, rows: list[TokenRow], **of: Any) -> Columns:
    """TRL's columns, each computed from a row, over all passes one after the other as our side sees them."""
    order = [rows[i] for epoch in range(case.epochs) for i in epoch_order(SEED, epoch, len(rows))]
    return Columns.from_list([{name: make(row) for name, make in of.items()} for row in order])


def whole(row: TokenRow, k: int = 0) -> list[int]:
    return [*row.prompt, *row.responses[k].ids]


def classifier(base: Path) -> PreTrainedModel:
    """A classifier whose head has std 1/sqrt(D + 1), drawn from the stage's seed."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=PAD)
    draws = torch.randn((1, HIDDEN), generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        model.score.weight.copy_(draws / math.sqrt(HIDDEN + 1))
    return model  # type: ignore[no-any-return]


def lora(task: str) -> LoraConfig:
    return LoraConfig(
        task_type=task, r=4, lora_alpha=12, lora_dropout=0.0, target_modules=PROJECTIONS,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
    )  # fmt: skip


def earlier_adapter(base: Path, folder: Path) -> Path:
    """An adapter that changes the model, written by plain peft."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora("CAUSAL_LM"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    model.save_pretrained(str(folder))
    return folder


def our_options(case: Case, lr: float, clip: float) -> dict[str, Any]:
    return {
        "data": "x", "lr": lr, "schedule": case.schedule, "warmup": 0.0, "weight_decay": DECAY,
        "max_grad_norm": clip, "tokens_per_microbatch": case.budget, "epochs": case.epochs,
        "batch_size": BATCH,
    }  # fmt: skip


def their_options(case: Case, lr: float, clip: float, folder: Path) -> dict[str, Any]:
    """The same for TRL, with its bf16, checkpointing, shuffling and cutting of long rows off."""
    return {
        "output_dir": str(folder / "trl"), "seed": SEED, "use_cpu": True, "bf16": False, "max_length": None,
        "gradient_checkpointing": False, "train_sampling_strategy": "sequential", "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH // case.parts, "gradient_accumulation_steps": case.parts,
        "learning_rate": lr, "lr_scheduler_type": case.schedule, "warmup_steps": 0, "weight_decay": DECAY,
        "max_grad_norm": clip, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def context(
    case: Case, options: Any, base: Path, folder: Path, inputs: dict[str, Artifact] | None = None
) -> StageContext[Any]:
    model = PathModel(kind="path", path=str(base), template="chatml")
    recipe: Any = SimpleNamespace(model=model, adapter=case.adapter)
    work = Store(folder).work("policy", "k" * 64)
    return StageContext("stage", options, recipe, SEED, base, inputs or {}, work, Mock(), lambda: False)


def ours(stage: Any, folder: Path) -> Trace:
    """Run a stage that was given its token rows; the artifact is read as the plain file that it is."""
    stage.template = load_template(stage.ctx.base, "chatml")
    out = folder / "out"
    out.mkdir()
    assert stage.run(out)["steps"] == STEPS
    (file,) = out.glob("*.safetensors")
    return Trace(stage.ctx.work.metrics.rows(), load_file(file))


def theirs(trainer: Any) -> tuple[Trace, dict[str, Tensor]]:
    """Train; returns also the weights before."""
    before = weights_of(trainer.model)
    trainer.train()
    steps = [row for row in trainer.state.log_history if "loss" in row]
    return Trace(steps, weights_of(trainer.model)), before


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """What learns, under the names of a saved artifact."""
    found: Mapping[str, Tensor] = dict(model.named_parameters())
    if isinstance(model, PeftModel):
        found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: p.detach().clone() for name, p in found.items()}


def norm(step: Mapping[str, float]) -> float:
    """Of all gradients of our side together."""
    return math.hypot(*(value for name, value in step.items() if name.startswith("grad_norm/")))


def assert_equal(mine: Trace, other: Trace, before: dict[str, Tensor]) -> None:
    """Losses, gradient norms and learning rates of every step, then every weight."""
    assert len(mine.steps) == len(other.steps) == STEPS
    for number, (a, b) in enumerate(zip(mine.steps, other.steps, strict=True), 1):
        assert a["loss"] == pytest.approx(b["loss"], rel=NUMBERS, abs=0), f"loss of step {number}"
        assert norm(a) == pytest.approx(b["grad_norm"], rel=NUMBERS, abs=0), f"gradient of step {number}"
        assert a["lr"] == pytest.approx(b["learning_rate"], rel=1e-9, abs=0), f"rate of step {number}"
    assert set(mine.weights) == set(other.weights) == set(before)
    apart = {n: float((mine.weights[n] - end).norm()) for n, end in other.weights.items()}
    moved = {n: float((end - before[n]).norm()) for n, end in other.weights.items()}
    for name, way in moved.items():
        assert way > 0, f"{name} never moved"
        assert apart[name] <= ONE_TENSOR * way, f"{name}: {apart[name]:.1e} apart after a way of {way:.1e}"
    assert math.hypot(*apart.values()) <= WEIGHTS * math.hypot(*moved.values())


def assert_close_metrics(mine: Trace, other: Trace, names: Iterable[str], tolerance: float) -> None:
    for name in names:
        a, b = ([step[name] for step in trace.steps] for trace in (mine, other))
        assert a == pytest.approx(b, rel=0, abs=tolerance), name


def assert_clips_some(trace: Trace, limit: float) -> None:
    norms = [step["grad_norm"] for step in trace.steps]
    assert min(norms) < limit < max(norms)


@pytest.mark.parametrize(
    ("case", "more", "their_more"),
    [
        *((case, {}, {}) for case in CASES),
        (CASES[0], {"loss": "dft", "max_grad_norm": 0.05}, {"loss_type": "dft", "max_grad_norm": 0.05}),
        (CASES[0], {"label_smoothing": 0.1}, {"label_smoothing_factor": 0.1}),
    ],
    ids=str,
)
def test_sft(
    base: Path, tmp_path: Path, case: Case, more: dict[str, Any], their_more: dict[str, Any]
) -> None:
    rows, (lr, clip) = conversations(case.rows), (3e-3, 3.0) if case.adapter is FULL else (5e-3, 1.8)
    options = SftOptions(kind="sft", **our_options(case, lr, clip) | more)
    stage = Sft(context(case, options, base, tmp_path))
    stage.data, stage.held_out = Tokenised("x", rows), Tokenised("x")
    mine = ours(stage, tmp_path)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(base),
        SFTConfig(completion_only_loss=True, **their_options(case, lr, clip, tmp_path) | their_more),
        train_dataset=columns(
            case,
            rows,
            input_ids=whole,
            completion_mask=lambda row: [0] * len(row.prompt) + [int(w) for w in row.responses[0].weights],
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=lora("CAUSAL_LM") if case.adapter is LORA else None,
    )
    other, before = theirs(trainer)
    assert_equal(mine, other, before)
    assert_clips_some(other, options.max_grad_norm)


@pytest.mark.parametrize(
    ("case", "margin", "centring"),
    [*((case, 0.0, 0.0) for case in CASES), (CASES[0], 0.5, 0.04), (CASES[3], 0.5, 0.04)],
    ids=str,
)
def test_reward_on_pairs(base: Path, tmp_path: Path, case: Case, margin: float, centring: float) -> None:
    rows, (lr, clip) = pairs(case.rows), (3e-3, 3.0) if case.adapter is FULL else (5e-3, 3.0)
    options = RewardOptions(kind="reward", margin=margin, centring=centring, **our_options(case, lr, clip))
    stage = Reward(context(case, options, base, tmp_path))
    stage.texts = {split: Dataset("x", []) for split in ("train", "test")}
    stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
    mine = ours(stage, tmp_path)
    tokens = AutoTokenizer.from_pretrained(base)
    tokens.pad_token_id = PAD
    trainer = RewardTrainer(
        classifier(base),
        RewardConfig(
            center_rewards_coefficient=centring / 4 or None,  # TRL squares the sum, Align the mean
            **their_options(case, lr, clip, tmp_path),
        ),
        train_dataset=columns(
            case,
            rows,
            chosen_ids=whole,
            rejected_ids=lambda row: whole(row, 1),
            margin=lambda row: margin * (row.ratings[0] - row.ratings[1]),
        ),
        processing_class=tokens,
        peft_config=lora("SEQ_CLS") if case.adapter is LORA else None,
    )
    other, before = theirs(trainer)
    assert_equal(mine, other, before)
    assert_close_metrics(mine, other, ["margin", "accuracy"], 5e-5)
    assert_clips_some(other, clip)


class TokenisedDPOTrainer(DPOTrainer):
    """TRL's trainer without its tokenising, which has no switch."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


@dataclass(frozen=True)
class Named:
    """A preference loss as our options and as TRL's name it."""

    ours: dict[str, Any]
    theirs: dict[str, Any]
    beta: float = BETA


SMOOTHED = {"label_smoothing": 0.1}
LOSSES = {
    "hinge": Named(  # slowly: near 0 all is rounding
        {"loss": "hinge", "lr": 3e-4}, {"loss_type": "hinge", "learning_rate": 3e-4}, beta=0.1
    ),
    "ipo": Named({"loss": "ipo"}, {"loss_type": "ipo"}),
    "exo": Named({"loss": "exo", **SMOOTHED}, {"loss_type": "exo_pair", **SMOOTHED}),
    "nca": Named({"loss": "nca"}, {"loss_type": "nca_pair"}),
    "robust": Named({"loss": "robust", **SMOOTHED}, {"loss_type": "robust", **SMOOTHED}),
    "bco": Named({"loss": "bco"}, {"loss_type": "bco_pair"}),
    "sppo": Named({"loss": "sppo"}, {"loss_type": "sppo_hard"}),
    "aot": Named(
        {"loss": "aot", **SMOOTHED, "tokens_per_microbatch": "auto"}, {"loss_type": "aot", **SMOOTHED}
    ),
    "apo_zero": Named({"loss": "apo_zero"}, {"loss_type": "apo_zero"}),
    "apo_down": Named({"loss": "apo_down"}, {"loss_type": "apo_down"}),
    "discopop": Named(
        {"loss": "discopop", "discopop_tau": 0.2}, {"loss_type": "discopop", "discopop_tau": 0.2}
    ),
    "sigmoid_norm": Named({"loss": "sigmoid_norm"}, {"loss_type": "sigmoid_norm"}, beta=3.0),
    "sum": Named(
        {"loss": {"sigmoid": 0.8, "bco": 0.2, "ipo": 0.5}},
        {"loss_type": ["sigmoid", "bco_pair", "ipo"], "loss_weights": [0.8, 0.2, 0.5]},
    ),
    "nll": Named(  # TRL takes the mean over the batch's tokens, Align over each answer's; here they are one
        {"loss": {"sigmoid": 1.0, "nll": 0.5}}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}
    ),
    "forward_kl": Named(  # exp(-log-ratio) is as wrong as the log-ratio is rounded: it must not get far
        {"divergence": "forward_kl", "lr": 2e-4}, {"f_divergence_type": "forward_kl", "learning_rate": 2e-4}
    ),
    "js": Named({"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
    "alpha": Named(  # the paper's alpha is 1 less TRL's coefficient
        {"divergence": "alpha", "alpha": 0.3, "loss": "ipo", "lr": 5e-4},
        {
            "f_divergence_type": "alpha_divergence",
            "f_alpha_divergence_coef": 0.7,
            "loss_type": "ipo",
            "learning_rate": 5e-4,
        },
    ),
    "ld_alpha": Named({"ld_alpha": 0.4}, {"ld_alpha": 0.4}),
    "wpo": Named({"wpo": True}, {"use_weighting": True}),
    "wpo_sum": Named(
        {"wpo": True, "ld_alpha": 0.4, "loss": {"ipo": 0.7, "sppo": 0.2}},
        {
            "use_weighting": True,
            "ld_alpha": 0.4,
            "loss_type": ["ipo", "sppo_hard"],
            "loss_weights": [0.7, 0.2],
        },
    ),
}


def trace_dpo(
    base: Path, folder: Path, case: Case, rows: list[TokenRow], named: Named
) -> tuple[Trace, Trace, dict[str, Tensor]]:
    """Both sides; an adapter goes on from an earlier one, so that the reference is that one, not the base."""
    lr, clip = 1e-3 if case.adapter is FULL else 3e-3, 3.0
    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    start, inputs = "base", {}
    if case.adapter is LORA:
        adapter = earlier_adapter(base, folder / "earlier")
        start, inputs = "sft", {"sft": Artifact(adapter, Manifest("policy", "k", files=describe(adapter)))}
        policy, reference = PeftModel.from_pretrained(policy, str(adapter), is_trainable=True), None
    given = {**our_options(case, lr, clip), "beta": named.beta, **named.ours}
    stage = Dpo(context(case, DpoOptions(kind="dpo", model=start, **given), base, folder, inputs))
    stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
    mine = ours(stage, folder)
    trainer = TokenisedDPOTrainer(
        policy,
        reference,
        DPOConfig(**{**their_options(case, lr, clip, folder), "beta": named.beta, **named.theirs}),
        train_dataset=columns(
            case,
            rows,
            prompt_ids=lambda row: list(row.prompt),
            chosen_ids=lambda row: list(row.responses[0].ids),
            rejected_ids=lambda row: list(row.responses[1].ids),
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    return mine, *theirs(trainer)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dpo(base: Path, tmp_path: Path, case: Case) -> None:
    mine, other, before = trace_dpo(base, tmp_path, case, pairs(case.rows), Named({}, {}))
    assert_equal(mine, other, before)
    assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 5e-5)
    assert_close_metrics(mine, other, ["logps/chosen", "logps/rejected"], 1e-4)
    assert_clips_some(other, 3.0)
    assert other.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6), "whatever the log-probabilities"
    assert max(abs(step["rewards/margins"]) for step in other.steps) > 0.1, "it left the reference"


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_on_pairs(base: Path, tmp_path: Path, name: str) -> None:
    rows = pairs(CASES[0].rows, chosen=(7, 7) if name == "nll" else (1, 12))
    mine, other, before = trace_dpo(base, tmp_path, CASES[0], rows, LOSSES[name])
    assert_equal(mine, other, before)
    assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 2e-4)
    assert_close_metrics(mine, other, ["logps/chosen", "logps/rejected"], 1e-4)


class TokenisedORPOTrainer(ORPOTrainer):
    """TRL's trainer without its tokenising."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature


class TokenisedCPOTrainer(CPOTrainer):
    """TRL's trainer without its tokenising."""

    def tokenize_row(self, feature: Any, model: Any = None) -> Any:
        return feature


def labels(row: TokenRow, k: int) -> list[int]:
    return [-100] * len(row.prompt) + list(row.responses[k].ids)


FREE: dict[str, tuple[dict[str, Any], type, Any, dict[str, Any]]] = {
    "orpo": ({"loss": "orpo", "beta": 0.8}, TokenisedORPOTrainer, ORPOConfig, {"beta": 0.8}),
    "cpo": (
        {"loss": "cpo", "beta": 0.3},
        TokenisedCPOTrainer,
        CPOConfig,
        {"loss_type": "sigmoid", "beta": 0.3},
    ),
    "simpo": (
        {"loss": "simpo", "beta": 2.0, "simpo_gamma": 0.7},
        TokenisedCPOTrainer,
        CPOConfig,
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.7, "cpo_alpha": 0.0},
    ),
}


@pytest.mark.parametrize("name", list(FREE))
def test_losses_without_reference(base: Path, tmp_path: Path, name: str) -> None:
    """TRL's likelihood term is a mean over a batch's tokens, ORPO's prompts too; Align's over each answer's.

    They are one where prompts have one token, which nothing predicts, and chosen answers one length. SimPO
    has no such term and takes any rows.
    """
    mine_named, trainer_type, config, named = FREE[name]
    case, lr, clip = CASES[0], 1e-3, 3.0
    shape = {} if name == "simpo" else {"prompt": (1, 1), "chosen": (7, 7)}
    rows = pairs(case.rows, **shape)
    given = {**our_options(case, lr, clip), **mine_named}
    stage = Dpo(context(case, DpoOptions(kind="dpo", **given), base, tmp_path))
    stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
    mine = ours(stage, tmp_path)
    of = {
        f"{which}_{what}": make
        for k, which in enumerate(("chosen", "rejected"))
        for what, make in {
            "input_ids": lambda row, k=k: whole(row, k),
            "attention_mask": lambda row, k=k: [1] * len(whole(row, k)),
            "labels": lambda row, k=k: labels(row, k),
        }.items()
    }
    trainer = trainer_type(
        AutoModelForCausalLM.from_pretrained(base),
        config(**named, **their_options(case, lr, clip, tmp_path)),
        train_dataset=columns(case, rows, **of),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    other, before = theirs(trainer)
    assert_equal(mine, other, before)
    assert_close_metrics(mine, other, ["rewards/chosen", "rewards/rejected", "rewards/margins"], 5e-5)


class TokenisedKTOTrainer(KTOTrainer):
    """TRL's trainer with its mismatched answers, but without its tokenising, which has no switch."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        if not self.calculate_KL:
            return dataset

        def mismatched(part: Any) -> Any:
            ids = part["completion_ids"]
            return {**part, "KL_completion_ids": [ids[-1], *ids[:-1]]}

        return dataset.map(mismatched, batched=True, batch_size=args.per_device_train_batch_size)


def labelled(count: int) -> list[TokenRow]:
    """Single answers, two of three desirable; some steps have answers of one label only."""
    draw, rows = random.Random(4), []
    for n in range(count):
        asked, ids = words(draw, 2, 10), (*words(draw, 1, 12), EOS)
        answer = Response(ids, (1.0,) * len(ids))
        rows.append(TokenRow(f"r{n}", asked, (answer,), desirable=draw.random() < 2 / 3))
    return rows


def trace_kto(
    base: Path, folder: Path, case: Case, named: Named, clip: float
) -> tuple[Trace, Trace, dict[str, Tensor]]:
    """Both sides; TRL estimates its KL from a micro-batch, so it may not cut a step."""
    lr, rows = 1e-3 if case.adapter is FULL else 3e-3, labelled(case.rows)
    policy, reference = (AutoModelForCausalLM.from_pretrained(base) for _ in range(2))
    start, inputs = "base", {}
    if case.adapter is LORA:
        adapter = earlier_adapter(base, folder / "earlier")
        start, inputs = "sft", {"sft": Artifact(adapter, Manifest("policy", "k", files=describe(adapter)))}
        policy = PeftModel.from_pretrained(policy, str(adapter), is_trainable=True)
        reference = PeftModel.from_pretrained(reference, str(adapter)).merge_and_unload()
    weights = {"desirable_weight": 0.7, "undesirable_weight": 1.6, "beta": named.beta}
    given = {**our_options(case, lr, clip), **weights, **named.ours}
    stage = Kto(context(case, KtoOptions(kind="kto", model=start, **given), base, folder, inputs))
    stage.tokens = {"train": Tokenised("x", rows), "test": Tokenised("x")}
    mine = ours(stage, folder)
    trainer = TokenisedKTOTrainer(
        policy,
        reference,
        KTOConfig(**{**their_options(case, lr, clip, folder), **weights, **named.theirs}),
        train_dataset=columns(
            case,
            rows,
            prompt_ids=lambda row: list(row.prompt),
            completion_ids=lambda row: list(row.responses[0].ids),
            label=lambda row: row.desirable,
        ),
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    return mine, *theirs(trainer)


UNPAIRED = {
    "kto": Named({"loss": "kto"}, {"loss_type": "kto"}),
    "apo_zero_unpaired": Named({"loss": "apo_zero_unpaired"}, {"loss_type": "apo_zero_unpaired"}),
}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (CASES[0], "kto"),  # we cut, TRL does not, and the KL is that of the whole step
        (Case(FULL, "linear"), "kto"),
        (CASES[2], "kto"),  # the last step has two rows
        (CASES[0], "apo_zero_unpaired"),
        (CASES[2], "apo_zero_unpaired"),
    ],
    ids=str,
)
def test_kto(base: Path, tmp_path: Path, case: Case, name: str) -> None:
    clip = 1.0
    mine, other, before = trace_kto(base, tmp_path, case, UNPAIRED[name], clip)
    assert_equal(mine, other, before)
    assert_clips_some(other, clip)
    for number, (a, b) in enumerate(zip(mine.steps, other.steps, strict=True), 1):
        for metric in (
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "logps/chosen",
            "logps/rejected",
        ):
            assert a.get(metric) == pytest.approx(b.get(metric), abs=1e-4), f"{metric} of step {number}"
    if name == "kto":
        assert_close_metrics(mine, other, ["kl"], 2e-4)
        assert max(step["kl"] for step in other.steps) > 0.1, "it left the reference"
    else:
        assert "kl" not in mine.steps[0]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("rising", [0, 4])
def test_schedules(schedule: str, rising: int) -> None:
    """Equal from the end of the warm-up on; within it our step s has the rate of their step s + 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    (rate,) = get_scheduler(name, optimizer, rising, STEPS).lr_lambdas
    want = [rate(step + 1 if step < rising else step) for step in range(STEPS)]
    assert [factor(schedule, step, STEPS, rising / STEPS) for step in range(STEPS)] == pytest.approx(want)
