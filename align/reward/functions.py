"""The user's own reward functions, out of a file that was named on the command line.

A recipe names a function and never the file, so reading somebody else's recipe runs none of their code.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.config.rewards import REWARDS_FROM
from align.errors import ConfigError
from align.registry import nearest

MODULE = "align_rewards_from"  # its name among the modules of the process
NO_FILE = "none"


@dataclass
class _Loaded:
    """The one file of the process and the functions that it defines."""

    path: Path | None = None
    digest: str = NO_FILE
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)


_loaded = _Loaded()


def load(path: Path) -> None:
    """Run the file and keep its public functions, those without a leading underscore.

    Raises:
        ConfigError: It cannot be read or run, or defines none.
    """
    where = f"{REWARDS_FROM}={path}"
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(where, f"cannot be read: {error.strerror}", "check the path") from None
    module = types.ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module  # where dataclasses look a class's module up
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except Exception as error:
        raise ConfigError(where, f"{type(error).__name__}: {error}", "mend the file") from error
    public: dict[str, Callable[..., Any]] = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == MODULE and not name.startswith("_")
    }
    if not public:
        raise ConfigError(where, "defines no function", "define one: def my_reward(answers): ...")
    digest = hashlib.sha256(source).hexdigest()[:12]
    _loaded.path, _loaded.digest, _loaded.functions = path, digest, public


def unload() -> None:
    """Forget the file."""
    _loaded.path, _loaded.digest, _loaded.functions = None, NO_FILE, {}
    sys.modules.pop(MODULE, None)


def path() -> Path | None:
    """The file, where one was named."""
    return _loaded.path


def digest() -> str:
    """First 12 hex digits of the SHA-256 of the file; `none` without one. What it imports does not count."""
    return _loaded.digest


def find(name: str, where: str) -> Callable[..., Any]:
    """The function of a name.

    Args:
        name: Of the function.
        where: Who asks, for the message.

    Raises:
        ConfigError: No file was named, or it defines no such function.
    """
    if _loaded.path is None:
        fix = f"add {REWARDS_FROM}=FILE.py with def {name}(answers): ... to the command"
        raise ConfigError(where, f"function {name!r} stands in no file that was named", fix)
    if name not in _loaded.functions:
        near = nearest(name, _loaded.functions)
        fix = f"did you mean {near}?" if near else f"it defines {', '.join(sorted(_loaded.functions))}"
        raise ConfigError(where, f"{_loaded.path} defines no function {name!r}", fix)
    return _loaded.functions[name]
