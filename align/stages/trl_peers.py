"""How each kind of stage is put to its trainer of TRL: arguments, columns, batches, names of metrics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from align.config import engines
from align.config.losses import LOSSES, weights_of
from align.config.stages import DpoOptions, KtoOptions, RewardOptions, SftOptions
from align.data.types import Response, TokenRow
from align.models import adapters
from align.models.opened import OpenedModel

OF_ANSWERS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
Row = dict[str, Any]
Collate = Callable[[list[Row]], Row]


@dataclass(frozen=True)
class Peer:
    """How a kind of stage is put to its trainer.

    Attributes:
        names: Of the trainer and of its config, in TRL.
        arguments: The stage's options as the config names them, beyond those of every stage.
        columns: A row as the trainer reads it, tokens and all.
        metrics: Our name of a metric -> TRL's, of those that the options ask for.
        models: Further arguments of the trainer.
        counts: Metrics that follow from a step's rows alone.
        whole_batch: A step may not be cut, since its rows are compared with one another.
    """

    names: tuple[str, str]
    arguments: Callable[[Any], Mapping[str, Any]]
    columns: Callable[[Any, TokenRow], Row]
    metrics: Callable[[Any], Mapping[str, str]]
    models: Callable[[OpenedModel], Mapping[str, Any]] = lambda opened: {}
    counts: Callable[[Sequence[TokenRow]], dict[str, float]] = lambda rows: {}
    whole_batch: Callable[[Any], bool] = lambda options: False


def _whole(row: TokenRow, k: int = 0) -> list[int]:
    return [*row.prompt, *row.responses[k].ids]


def _scored(response: Response) -> list[int]:
    """1 on the tokens that are scored, 0 on the others."""
    return [int(weight) for weight in response.weights]


def _sft_columns(options: SftOptions, row: TokenRow) -> Row:
    mask = [0] * len(row.prompt) + _scored(row.responses[0])
    return {"input_ids": _whole(row), "completion_mask": mask}


def _reward_columns(options: RewardOptions, row: TokenRow) -> Row:
    better, worse = sorted(range(2), key=lambda k: row.tiers[k])
    ratings = row.ratings or (0.0, 0.0)
    margin = options.margin * (ratings[better] - ratings[worse])
    return {"chosen_ids": _whole(row, better), "rejected_ids": _whole(row, worse), "margin": margin}


def _dpo_columns(options: DpoOptions, row: TokenRow) -> Row:
    found: Row = {"prompt_ids": list(row.prompt)}
    for name, response in zip(("chosen", "rejected"), row.responses, strict=True):
        found |= {f"{name}_ids": list(response.ids), f"{name}_mask": _scored(response)}
    return found


def _kto_columns(options: KtoOptions, row: TokenRow) -> Row:
    (response,) = row.responses
    told = {"completion_ids": list(response.ids), "mask": _scored(response), "label": bool(row.desirable)}
    return {"prompt_ids": list(row.prompt), **told}


def _dpo_models(opened: OpenedModel) -> Row:
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    collate = DataCollatorForPreference(pad_token_id=opened.template.pad_id)
    return {"data_collator": partial(_collate_pairs, collate), **_reference(opened)}


def _kto_models(opened: OpenedModel) -> Row:
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    collate = DataCollatorForUnpairedPreference(pad_token_id=opened.template.pad_id)
    return {"data_collator": partial(_collate_answers, collate), **_reference(opened)}


def _reference(opened: OpenedModel) -> Row:
    """Of a full model a copy; of an adapter the trainer keeps a copy by itself."""
    if adapters.is_peft(opened.model):
        return {}
    return {"ref_model": copy.deepcopy(opened.model).requires_grad_(False).eval()}


def _collate_pairs(collate: Collate, rows: list[Row]) -> Row:
    """TRL's batch, all chosen answers first; the EOS of an answer that was cut is not scored."""
    batch = collate(rows)
    masks = [(row, row[f"{name}_mask"]) for name in ("chosen", "rejected") for row in rows]
    _score(batch["completion_mask"], masks)
    return batch


def _collate_answers(collate: Collate, rows: list[Row]) -> Row:
    """TRL's batch of a whole step; for the KL each prompt stands with the answer of the row before it too."""
    before = [*rows[-1:], *rows[:-1]]
    batch = collate(
        [
            {**row, "KL_completion_ids": other["completion_ids"]}
            for row, other in zip(rows, before, strict=True)
        ]
    )
    _score(batch["completion_mask"], [(row, row["mask"]) for row in rows])
    _score(
        batch["KL_completion_mask"],
        [(row, other["mask"]) for row, other in zip(rows, before, strict=True)],
    )
    return batch


def _score(found: torch.Tensor, rows: list[tuple[Row, list[int]]]) -> None:
    """Write a mask into each line of TRL's, behind the prompt."""
    for line, (row, mask) in zip(found, rows, strict=True):
        start = len(row["prompt_ids"])
        line[start : start + len(mask)] = torch.tensor(mask)


def _same(names: Iterable[str]) -> dict[str, str]:
    """Metrics that have one name on both sides."""
    return {name: name for name in names}


def _is_changed(options: SftOptions) -> bool:
    """Whether the loss is more than the negative log-likelihood."""
    return options.loss != "nll" or options.label_smoothing > 0


PEERS: dict[str, Peer] = {
    "sft": Peer(
        ("SFTTrainer", "SFTConfig"),
        lambda options: {
            "completion_only_loss": True,
            "loss_type": engines.TRAINERS["sft"].losses[options.loss],
            "label_smoothing_factor": options.label_smoothing,
            "neftune_noise_alpha": options.neftune_alpha or None,
        },
        _sft_columns,
        # With weights of 0 and 1 the likelihood and its loss are one, unless the loss is another.
        lambda options: _same(["loss"]) | ({} if _is_changed(options) else {"nll": "loss"}),
        counts=lambda rows: {"tokens": sum(sum(row.responses[0].weights) for row in rows)},
    ),
    "reward": Peer(
        ("RewardTrainer", "RewardConfig"),
        # TRL squares the sum of a pair's scores, Align the mean.
        lambda options: {
            "center_rewards_coefficient": options.centring / 4 or None,
            "disable_dropout": False,
        },
        _reward_columns,
        lambda options: _same(("loss", "accuracy", "margin")),
    ),
    "dpo": Peer(
        ("DPOTrainer", "DPOConfig"),
        engines.dpo_arguments,
        _dpo_columns,
        lambda options: _same(("loss", "rewards/accuracies", *OF_ANSWERS)),
        models=_dpo_models,
        whole_batch=lambda options: any(LOSSES[name].whole_batch for name in weights_of(options.loss)),
    ),
    "kto": Peer(
        ("KTOTrainer", "KTOConfig"),
        lambda options: {
            "loss_type": options.loss,
            "beta": options.beta,
            "desirable_weight": options.desirable_weight,
            "undesirable_weight": options.undesirable_weight,
        },
        _kto_columns,
        lambda options: _same(("loss", *OF_ANSWERS, *(["kl"] if options.loss == "kto" else []))),
        models=_kto_models,
        whole_batch=lambda options: True,  # TRL has no margin of a micro-batch of one label
    ),
}
