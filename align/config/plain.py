"""From OmegaConf to plain Python, looking up `${other.key}` and saying which key could not be looked up."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
)

from align.config.refuse import Finding

DEEPEST = 32
_UNKNOWN = object()


def to_plain(config: DictConfig) -> tuple[dict[str, Any], list[Finding]]:
    """The whole configuration without Hydra's own part, and what could not be looked up.

    Values that must still be given (`???`) and interpolations that lead nowhere are left out of the result.
    """
    findings: list[Finding] = []
    return {
        str(name): value
        for name in config
        if name != "hydra" and (value := _plain(config, name, (str(name),), findings)) is not _UNKNOWN
    }, findings


def _plain(parent: DictConfig | ListConfig, name: Any, path: tuple[str, ...], findings: list[Finding]) -> Any:
    key = ".".join(path)
    if len(path) > DEEPEST:
        return _refuse(findings, key, "leads back to itself", "write the value")
    if OmegaConf.is_missing(parent, name):
        return _UNKNOWN  # pydantic says what is missing, in words of its own
    try:
        value = parent[name]
    except InterpolationToMissingValueError:
        return _refuse(
            findings,
            key,
            f"{_as_written(parent, name)} is not given yet",
            "give that key, or write the value",
        )
    except InterpolationKeyError:
        return _refuse(
            findings,
            key,
            f"{_as_written(parent, name)} names no key",
            "write it as ${stages.sft.lr}, from the top",
        )
    except (InterpolationResolutionError, RecursionError):
        return _refuse(
            findings,
            key,
            f"{_as_written(parent, name)} leads back to itself",
            "write the value in one of the places",
        )
    except OmegaConfBaseException as error:
        return _refuse(findings, key, str(error).splitlines()[0], "write the value")
    if isinstance(value, DictConfig):
        items = {str(child): _plain(value, child, (*path, str(child)), findings) for child in value}
        return {child: item for child, item in items.items() if item is not _UNKNOWN}
    if isinstance(value, ListConfig):
        rows = [_plain(value, i, (*path, str(i)), findings) for i in range(len(value))]
        return [row for row in rows if row is not _UNKNOWN]
    return value


def _as_written(parent: DictConfig | ListConfig, name: Any) -> str:
    raw: Any = OmegaConf.to_container(parent, resolve=False)
    return str(raw[name])


def _refuse(findings: list[Finding], key: str, what: str, fix: str) -> Any:
    findings.append(Finding(key, what, fix))
    return _UNKNOWN
