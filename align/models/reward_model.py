"""A reward model: a decoder with a one-number head, read at EOS, or behind each step of an answer."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from align.artifacts.store import Artifact
from align.config.schema import AnyAdapter, Dtype, NoAdapter, Quantization, quantization_of
from align.engine.batch import TokenBatch
from align.engine.forward import states
from align.errors import ConfigError, IntegrityError
from align.models import adapters
from align.models.freezing import freeze
from align.models.opened import OpenedModel
from align.models.policy import load_checked, load_template

STEPS, THRESHOLDS = "process.json", "thresholds.json"  # beside the model, where it scores steps or ratings


@dataclass(frozen=True)
class Steps:
    """How a process reward model is read.

    Attributes:
        separator: Stands behind each step.
        aggregate: Makes the score of an answer of its steps' values.
        loss: It was trained with: `bce` makes a score the log-odds of a probability, `mse` the value itself.
    """

    separator: str
    aggregate: Literal["min", "last", "mean", "product"]
    loss: Literal["bce", "mse"]


@dataclass
class RewardModel(OpenedModel):
    """Scores [S] at each sequence's last token.

    Attributes:
        steps: How it is read where it scores the steps of an answer; None where it scores the answer at EOS.
    """

    steps: Steps | None = None

    @property
    def head(self) -> nn.Module:
        """The score head in use."""
        return self.plain.score  # type: ignore[return-value]

    @torch.no_grad()
    def set_head(self, weight: Tensor, adapter: str = adapters.ACTIVE) -> None:
        """Set the score head's weights [D], those of one adapter where heads belong to adapters."""
        head = self.head.modules_to_save[adapter] if hasattr(self.head, "modules_to_save") else self.head  # type: ignore[index]
        head.weight.copy_(weight[None])  # type: ignore[union-attr,operator]

    def scores(self, batch: TokenBatch) -> Tensor:
        """[S] one number per sequence, read at its last token (EOS)."""
        return self.read(states(self.plain.base_model, batch).last)

    def read(self, hidden: Tensor) -> Tensor:
        """[N] what the head says to hidden states [N, D], in float32."""
        scores: Tensor = self.head(hidden.to(next(self.head.parameters()).dtype))[:, 0]
        return scores.float()

    def step_scores(self, batch: TokenBatch) -> Tensor:
        """[C] one number per scored token, read before it: of a step, at its last token."""
        return self.read(states(self.plain.base_model, batch).scored)

    def save(self, folder: Path) -> None:
        """Write the artifact's files and open them again to see that nothing is missing."""
        adapters.save(self.model, folder)
        self.plain.config.save_pretrained(folder)
        self.template.save(folder, pad_token_id=self.plain.config.pad_token_id)
        if self.steps is not None:
            (folder / STEPS).write_text(json.dumps(asdict(self.steps), indent=2) + "\n")
        adapters.verify_saved(folder, self.trainable())


def new_reward_model(
    source: Artifact | Path,
    base: Path,
    template: str | None,
    adapter: AnyAdapter,
    *,
    layers: int | None,
    seed: int,
    dtype: Dtype = "float32",
) -> RewardModel:
    """A reward model that starts from a policy's weights, with a fresh head.

    The head's std is 1/sqrt(D+1) (arXiv:2009.01325).

    Args:
        source: An artifact of kind `policy`, or the base model's folder.
        base: The base model's folder.
        template: Name of the chat template.
        adapter: What to train. A policy that is an adapter is continued with its own settings.
        layers: Keep so many lower layers; None keeps all.
        seed: Of the head and of a new adapter.
        dtype: That it computes in; adapters and the head beside them are float32 whatever it is.
    """
    folder = source if isinstance(source, Path) else source.path
    tokens = load_template(base, template)
    with_adapter = (folder / "adapter_config.json").exists()
    plain = _classifier(
        base if with_adapter else folder, tokens.pad_id, layers, dtype, quantization_of(adapter)
    )
    if with_adapter or not isinstance(adapter, NoAdapter):
        plain.score.float()
    _init_head(plain.score, seed)  # type: ignore[arg-type]
    model: nn.Module = plain
    if with_adapter:
        model = adapters.continued(plain, folder, base)
    elif isinstance(adapter, NoAdapter):
        freeze(plain, adapter.freeze)
    else:
        model = adapters.attach(plain, adapter, "SEQ_CLS", base, seed)
    model.eval()
    return RewardModel(model, tokens, base)


def open_reward_model(
    source: Artifact, base: Path, template: str | None, dtype: Dtype = "float32"
) -> RewardModel:
    """A trained reward model for reading.

    Raises:
        IntegrityError: The head, or any other tensor, is not in the artifact.
    """
    folder = source.path
    tokens = load_template(base, template)
    if (folder / "adapter_config.json").exists():
        config = AutoConfig.from_pretrained(folder)
        plain = _classifier(base, config.pad_token_id, config.num_hidden_layers, dtype)
        plain.score.float()
        model: nn.Module = adapters.load(plain, folder, trainable=False)
    else:
        model, info = load_checked(AutoModelForSequenceClassification, folder, dtype)
        _refuse_missing(folder, info)
    model.requires_grad_(False).eval()
    path = folder / STEPS
    return RewardModel(model, tokens, base, Steps(**json.loads(path.read_text())) if path.exists() else None)


def _classifier(
    folder: Path, pad_id: int, layers: int | None, dtype: Dtype, quantize: Quantization | None = None
) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    if layers is not None and layers > config.num_hidden_layers:
        raise ConfigError("layers", f"{layers} is above the model's {config.num_hidden_layers}", "lower it")
    config.num_labels = 1
    config.pad_token_id = pad_id
    config.num_hidden_layers = layers or config.num_hidden_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    model, info = load_checked(AutoModelForSequenceClassification, folder, dtype, quantize, config=config)
    _refuse_missing(folder, info, head=False)
    return model


def _refuse_missing(folder: Path, info: dict[str, Any], head: bool = True) -> None:
    names = [n for n in [*info["missing_keys"], *info["mismatched_keys"]] if head or "score" not in str(n)]
    if names:
        raise IntegrityError(
            str(folder), f"lacks {', '.join(sorted(map(str, names))[:3])}", "train the stage again"
        )


def _init_head(head: nn.Linear, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.copy_(
            torch.randn(head.weight.shape, generator=generator) / math.sqrt(head.in_features + 1)
        )
