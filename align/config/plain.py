"""From OmegaConf to plain Python, looking up `${other.key}` and saying which key could not be looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Plain:
    """A configuration as plain Python.

    Attributes:
        values: All that is known, without Hydra's own part.
        unresolved: Interpolations that lead nowhere; they are left out of `values`.
        missing: Values that must still be given (`???`); left out as well.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unresolved: list[Finding] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)


def to_plain(config: DictConfig) -> Plain:
    """Look up everything."""
    plain = Plain()
    for name in config:
        value = _UNKNOWN if name == "hydra" else _plain(config, name, (str(name),), plain)
        if value is not _UNKNOWN:
            plain.values[str(name)] = value
    return plain


def _plain(parent: DictConfig | ListConfig, name: Any, path: tuple[str, ...], plain: Plain) -> Any:
    key = ".".join(path)
    if len(path) > DEEPEST:
        return _refuse(plain, key, "leads back to itself", "write the value")
    if OmegaConf.is_missing(parent, name):
        plain.missing.append(Finding(key, "is missing", "give a value"))
        return _UNKNOWN
    try:
        value = parent[name]
    except InterpolationToMissingValueError:
        return _refuse(
            plain,
            key,
            f"{_as_written(parent, name)} is not given yet",
            "give that key, or write the value",
        )
    except InterpolationKeyError:
        return _refuse(
            plain,
            key,
            f"{_as_written(parent, name)} names no key",
            "write it as ${stages.sft.lr}, from the top",
        )
    except (InterpolationResolutionError, RecursionError):
        return _refuse(
            plain,
            key,
            f"{_as_written(parent, name)} leads back to itself",
            "write the value in one of the places",
        )
    except OmegaConfBaseException as error:
        return _refuse(plain, key, str(error).splitlines()[0], "write the value")
    if isinstance(value, DictConfig):
        items = {str(child): _plain(value, child, (*path, str(child)), plain) for child in value}
        return {child: item for child, item in items.items() if item is not _UNKNOWN}
    if isinstance(value, ListConfig):
        rows = [_plain(value, i, (*path, str(i)), plain) for i in range(len(value))]
        return [row for row in rows if row is not _UNKNOWN]
    return value


def _as_written(parent: DictConfig | ListConfig, name: Any) -> str:
    raw: Any = OmegaConf.to_container(parent, resolve=False)
    return str(raw[name])


def _refuse(plain: Plain, key: str, what: str, fix: str) -> Any:
    plain.unresolved.append(Finding(key, what, fix))
    return _UNKNOWN
