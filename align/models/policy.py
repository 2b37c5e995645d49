"""A policy: a causal language model, full or base + adapter, with its tokenizer and template.

An artifact of a LoRA recipe is one adapter on the *original* base: a later stage loads the earlier adapter
and trains on, and the reference of that stage is the earlier adapter, kept beside it under the name
`reference`.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as hub_logging

from align.artifacts.store import Artifact
from align.config.schema import AnyAdapter, Dtype, NoAdapter, Quantization, quantization_of
from align.data.template import ChatTemplate
from align.engine import paths
from align.engine.batch import TokenBatch
from align.engine.forward import states
from align.engine.head import Measure, mean_logps, token_logps
from align.errors import ConfigError, IntegrityError, NumericsError, keyed, warn_once
from align.models import adapters, quantization
from align.models.freezing import freeze
from align.models.opened import OpenedModel
from align.models.sources import read_json

REFERENCE = "reference"
COPY = "get a complete copy"


@dataclass
class Policy(OpenedModel):
    """A causal language model that can be trained, sampled from and compared with its starting point.

    Attributes:
        frozen: The reference as a second model, where there is no adapter to switch.
    """

    frozen: PreTrainedModel | None = None

    def logps(
        self,
        batch: TokenBatch,
        temperature: float = 1.0,
        measure: Measure | None = None,
        *,
        bonus: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs [C] of the scored tokens (differentiable) and a measure [C] of their distributions.

        With `bonus` the entropy is differentiable too.
        """
        return model_logps(self.plain, batch, temperature, measure, bonus=bonus)

    def logps_and_means(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Log-probs [C] of the scored tokens, and their mean [C] over the vocabulary; both differentiable."""
        hidden, head = states(self.plain.base_model, batch).scored, self.plain.get_output_embeddings()
        logps = token_logps(hidden, head, batch.targets)[0]
        return logps, mean_logps(hidden, head, batch.targets, logps)

    @torch.no_grad()
    def ref_logps(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Log-probs [C] under the policy that training started from."""
        with self.reference() as model:
            return model_logps(model, batch, temperature)[0]

    @contextmanager
    def reference(self) -> Iterator[PreTrainedModel]:
        """The reference: the earlier adapter switched on while the block runs, or the second model."""
        if self.frozen is not None:
            yield self.frozen
            return
        with adapters.switched(self.model, REFERENCE):
            yield self.plain

    def keep_reference(self) -> None:
        """Remember the present weights as the reference."""
        if adapters.is_peft(self.model):
            adapters.copy_adapter(self.model, REFERENCE)
        else:
            self.frozen = copy.deepcopy(self.model).requires_grad_(False).eval()  # type: ignore[assignment]

    def reference_tensors(self) -> dict[str, Tensor]:
        """The reference's own weights by name, to be saved where it moves during a stage."""
        if self.frozen is not None:
            return {name: p.detach() for name, p in self.frozen.named_parameters()}
        return {name: p.detach() for name, p in self.model.named_parameters() if f".{REFERENCE}" in name}

    @torch.no_grad()
    def load_reference(self, tensors: Mapping[str, Tensor]) -> None:
        """Put `reference_tensors` back."""
        for name, p in self.reference_tensors().items():
            p.copy_(tensors[name])

    def save(self, folder: Path) -> None:
        """Write the artifact's files and open them again to see that nothing is missing."""
        adapters.save(self.model, folder)
        _generation_config(self.base, self.template.eos_id, folder)
        self.template.save(folder)
        adapters.verify_saved(folder, self.trainable())


def model_logps(
    model: PreTrainedModel,
    batch: TokenBatch,
    temperature: float = 1.0,
    measure: Measure | None = None,
    *,
    bonus: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [C] and a measure [C], see `engine.head`, of a causal model over a batch."""
    body, head = model.base_model, model.get_output_embeddings()
    scored = states(body, batch).scored
    return token_logps(scored, head, batch.targets, temperature=temperature, measure=measure, bonus=bonus)


def open_policy(
    source: Artifact | Path,
    base: Path,
    template: str | None,
    adapter: AnyAdapter | None,
    seed: int = 0,
    dtype: Dtype = "float32",
) -> Policy:
    """Load a policy.

    Args:
        source: An artifact of kind `policy`, or the base model's folder.
        base: The base model's folder.
        template: Name of the chat template; None takes the tokenizer's own.
        adapter: What to train; None loads for reading only, with the base as it is.
        seed: Of a new adapter's random half.
        dtype: That it computes in; adapters are float32 whatever it is.
    """
    folder = source if isinstance(source, Path) else source.path
    with_adapter = (folder / "adapter_config.json").exists()
    plain = load_causal(base if with_adapter else folder, dtype, quantization_of(adapter))
    model: nn.Module = plain
    if with_adapter:
        model = adapters.load(plain, folder, trainable=adapter is not None)
    elif isinstance(adapter, NoAdapter):
        freeze(plain, adapter.freeze)
    elif adapter is not None:
        model = adapters.attach(plain, adapter, "CAUSAL_LM", base, seed)
    if adapter is None:
        model.requires_grad_(False)
    model.eval()
    return Policy(model, load_template(base, template), base)


@keyed("model")
def load_template(base: Path, name: str | None) -> ChatTemplate:
    """The tokenizer of the base model with its chat template."""
    from transformers import AutoTokenizer

    quiet()  # of texts longer than the context, which are cut here
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except Exception as error:  # of whatever its files hold, the library raises whatever it stumbles over
        raise IntegrityError(
            str(base / "tokenizer.json"), f"no tokenizer can be read: {_first_line(error)}", COPY
        ) from error
    return ChatTemplate(tokenizer, name)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def load_causal(
    folder: Path, dtype: Dtype = "float32", quantize: Quantization | None = None
) -> PreTrainedModel:
    """A causal model whose every weight was in the file and is finite.

    Raises:
        IntegrityError: Weights that the file does not hold, or holds and the model does not know.
        NumericsError: Weights that are not finite.
        ConfigError: A family whose logits need more than the output projection.
    """
    model, info = load_checked(AutoModelForCausalLM, folder, dtype, quantize)
    for problem, keys in (
        ("missing or of the wrong shape", [*info["missing_keys"], *info["mismatched_keys"]]),
        ("in the file that the model of config.json has no place for", info["unexpected_keys"]),
    ):
        if keys:
            names = ", ".join(sorted(map(str, keys))[:5])
            raise IntegrityError(str(folder), f"weights {problem}: {names}", "get a complete copy")
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(model.config, key, None)
        if value not in (None, 1, 1.0):
            raise ConfigError(
                str(folder / "config.json"), f"{key} = {value} is not supported yet", "use another model"
            )
    return model


def load_checked(
    auto: Any,
    folder: Path,
    dtype: Dtype = "float32",
    quantize: Quantization | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """`from_pretrained` with safetensors only, no foreign code, and every weight finite."""
    quiet()
    try:
        model, info = auto.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **quantization.arguments(quantize, dtype),
            **kwargs,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(str(folder), f"cannot be opened: {_first_line(error)}", COPY) from error
    for name, p in model.named_parameters() if quantize is None else quantization.on_disk(folder):
        bad = int((~torch.isfinite(p)).sum())
        if bad and name not in info["missing_keys"]:
            raise NumericsError(
                str(folder), f"{name} holds {bad} values that are not finite", "get another copy"
            )
    if quantize is not None:
        quantization.settle(model)
    reason = paths.choose(model)
    if reason is not None:
        warn_once(f"{type(model).__name__} takes the padded forward: {reason}")
    return model, info


def quiet() -> None:
    """Keep transformers' bars and load reports off the screen; what matters of them is checked here."""
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of kernels on the hub that it can do without
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module="transformers"
    )  # peft calls what will be renamed


def _generation_config(base: Path, eos: int, folder: Path) -> None:
    """The base model's settings, with the token that ends an answer of the template among those that stop."""
    source = base / "generation_config.json"
    settings = read_json(source) if source.exists() else {}
    known = settings.get("eos_token_id")
    ends = known if isinstance(known, list) else [] if known is None else [known]
    settings["eos_token_id"] = known if eos in ends else [*ends, eos] if ends else eos
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=2))
