"""What policy and reward model share: a transformers model, perhaps in peft's wrapper, with its template."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from align.data.template import ChatTemplate
from align.engine import flat, virtual
from align.engine.batch import AUTO, Budget
from align.models import adapters, quantization


@dataclass
class OpenedModel:
    """A model that can be read and, where it was opened so, trained.

    Attributes:
        model: The plain model, or peft's wrapper around it.
        template: Tokenizer and chat template.
        base: Folder of the original base model.
    """

    model: nn.Module
    template: ChatTemplate
    base: Path

    @property
    def plain(self) -> PreTrainedModel:
        """The transformers model, adapters in place."""
        return self.model.get_base_model() if adapters.is_peft(self.model) else self.model  # type: ignore[operator,return-value]

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter that learns; the names are stable across processes."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def budget(self, tokens: int | Literal["auto"]) -> Budget:
        """A budget of so many tokens, counted as this model's forward does."""
        body = self.plain.base_model
        most = AUTO if tokens == "auto" else tokens
        return Budget(most, padded=not flat.is_prepared(body), virtual=virtual.count_of(body))

    def sizes(self) -> dict[str, int]:
        """Numbers of weights, under the names that summaries use."""
        return {
            "trainable_parameters": sum(p.numel() for p in self.trainable().values()),
            "parameters": sum(quantization.numbers(p) for p in self.model.parameters()),
        }
