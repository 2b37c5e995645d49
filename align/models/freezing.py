"""Parameters that stay as they are while all others learn: patterns on their names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from align.errors import ConfigError

KEY = "adapter.freeze"


def frozen_names(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The names that patterns match, as a shell matches files: `*`, `?`, `[0-9]`.

    Raises:
        ConfigError: A pattern that matches nothing, or nothing is left to learn.

    Example:
        >>> sorted(frozen_names(["embed.weight", "layers.1.w", "layers.12.w"], ["embed*", "layers.[0-9].*"]))
        ['embed.weight', 'layers.1.w']
    """
    found: set[str] = set()
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            near = get_close_matches(pattern.replace("*", ""), names, n=1, cutoff=0)[0]
            raise ConfigError(KEY, f"{pattern!r} matches no parameter", f"the nearest is {near}")
        found |= matched
    if len(found) == len(names):
        raise ConfigError(KEY, "freezes every parameter", "leave one to learn")
    return found


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze what patterns match; they were checked against the policy, of which another head may differ."""
    for name, p in model.named_parameters():
        # The head of a reward model is new: it always learns.
        if not name.startswith("score.") and any(fnmatchcase(name, pattern) for pattern in patterns):
            p.requires_grad_(False)
