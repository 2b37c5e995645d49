"""What TRL's trainers take of a stage, and under which names: `engine=trl`. No torch, no TRL here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from align.config.losses import TRL_NAMES, weights_of
from align.config.refuse import Finding
from align.config.schema import quantization_of
from align.config.stages import DpoOptions, SupervisedOptions
from align.config.unread import unread

# Read before training begins, or given to the trainer as such; `checkpoint_every` only changes the log.
COMMON = frozenset(
    {
        "kind", "seed", "engine", "model", "data", "lr", "schedule", "warmup", "weight_decay",
        "optimizer", "max_grad_norm", "max_prompt", "max_answer",
        "max_drop", "epochs", "batch_size", "checkpoint_every",
    }
)  # fmt: skip
ADAPTERS = ("none", "lora", "dora")


@dataclass(frozen=True)
class Trainer:
    """A trainer of TRL.

    Attributes:
        name: Of its class.
        takes: Options beyond `COMMON` and `loss`; of all others it takes the default alone.
        losses: Our name of a loss -> TRL's, where `loss` may be any of these.
        switches_dropout_off: A model, its adapter too, is trained without dropout.
    """

    name: str
    takes: frozenset[str] = frozenset()
    losses: Mapping[str, str] = field(default_factory=dict)
    switches_dropout_off: bool = False


TRAINERS: dict[str, Trainer] = {
    "sft": Trainer(
        "SFTTrainer",
        frozenset({"train_on", "label_smoothing", "neftune_alpha"}),
        {"nll": "nll", "dft": "dft"},
    ),
    "reward": Trainer(
        "RewardTrainer", frozenset({"head_lr", "margin", "centring", "max_answers", "head_init", "layers"})
    ),
    "dpo": Trainer(
        "DPOTrainer",
        frozenset({"beta", "label_smoothing", "divergence", "alpha", "ld_alpha", "discopop_tau", "wpo"}),
        {
            name: TRL_NAMES.get(name, name)
            for name in (
                "sigmoid",
                "robust",
                "exo",
                "hinge",
                "ipo",
                "sigmoid_norm",
                "discopop",
                "aot",
                "nca",
                "bco",
                "sppo",
                "apo_zero",
                "apo_down",
                "nll",
            )
        },
        switches_dropout_off=True,
    ),  # fmt: skip
    "kto": Trainer(
        "KTOTrainer",
        frozenset({"beta", "desirable_weight", "undesirable_weight"}),
        {"kto": "kto", "apo_zero_unpaired": "apo_zero_unpaired"},
        switches_dropout_off=True,
    ),
}
DIVERGENCES: dict[str, str] = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js": "js_divergence",
    "alpha": "alpha_divergence",
}


def not_taken(
    key: str, options: SupervisedOptions, adapter: BaseModel | None, dtype: object
) -> list[Finding]:
    """What the stage's trainer of TRL cannot take, where the stage asks for it.

    Args:
        key: `stages.<name>`.
        options: Of the stage.
        adapter: Of the recipe; None where it is not right by itself.
        dtype: Of the recipe; `auto` where it is not decided yet.
    """
    if options.engine != "trl":
        return []
    trainer = TRAINERS.get(options.kind)
    if trainer is None:
        what = f"trl is not built for a stage of kind {options.kind}"
        return [Finding(f"{key}.engine", what, f"try {key}.engine=align")]
    findings = _options(key, options, trainer) + _losses(key, options, trainer)
    return findings + _adapter(key, trainer, adapter) + _dtype(key, dtype)


def _dtype(key: str, dtype: object) -> list[Finding]:
    if dtype != "bfloat16":
        return []
    what = "trl computes in float32 here, not in hardware.dtype=bfloat16"
    return [Finding(f"{key}.engine", what, f"try hardware.dtype=float32, or {key}.engine=align")]


def _options(key: str, options: SupervisedOptions, trainer: Trainer) -> list[Finding]:
    """Options that the trainer does not have, and that were changed."""
    findings: list[Finding] = []
    taken = COMMON | trainer.takes | ({"loss"} if trainer.losses else set())
    for name in type(options).model_fields:
        if name not in taken:
            findings += unread(key, options, name, f"TRL's {trainer.name}", f"{key}.engine=align")
    return findings


def _adapter(key: str, trainer: Trainer, adapter: BaseModel | None) -> list[Finding]:
    kind, dropout = getattr(adapter, "kind", "none"), getattr(adapter, "dropout", 0.0)
    if quantization_of(adapter) is not None:
        what = "trl is given no base in 4 bits"
        return [Finding(f"{key}.engine", what, f"try {key}.engine=align, or adapter.quantize_base=null")]
    if kind not in ADAPTERS:
        what = f"trl takes the adapters {', '.join(ADAPTERS)}, not adapter.kind={kind}"
        return [Finding(f"{key}.engine", what, f"try {key}.engine=align, or adapter=lora")]
    if dropout and trainer.switches_dropout_off:
        what = f"{dropout:g} is switched off by TRL's {trainer.name}"
        return [Finding("adapter.dropout", what, f"try adapter.dropout=0, or {key}.engine=align")]
    return []


def _losses(key: str, options: SupervisedOptions, trainer: Trainer) -> list[Finding]:
    if not trainer.losses:
        return []
    named = getattr(options, "loss", ())
    lacking = [name for name in ([named] if isinstance(named, str) else named) if name not in trainer.losses]
    if not lacking:
        return []
    what = f"{', '.join(lacking)} is not a loss of TRL's {trainer.name}"
    first = next(iter(trainer.losses))
    return [Finding(f"{key}.loss", what, f"try {key}.loss={first}, or {key}.engine=align")]


def dpo_arguments(options: DpoOptions) -> Mapping[str, object]:
    """The options of `dpo` as `DPOConfig` names them."""
    weights = weights_of(options.loss)
    return {
        "loss_type": [TRAINERS["dpo"].losses[name] for name in weights],
        "loss_weights": list(weights.values()),
        "beta": options.beta,
        "label_smoothing": options.label_smoothing,
        "f_divergence_type": DIVERGENCES[options.divergence],
        # The paper's alpha, which is ours, is 1 less TRL's coefficient.
        **({} if options.alpha is None else {"f_alpha_divergence_coef": 1.0 - options.alpha}),
        "ld_alpha": options.ld_alpha,
        "discopop_tau": options.discopop_tau,
        "use_weighting": options.wpo,
    }
