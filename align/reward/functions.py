"""The user's own reward functions and environments, out of a file that was named on the command line.

A recipe names one of them and never the file, so reading somebody else's recipe runs none of their code.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from align.config.rewards import REWARDS_FROM
from align.errors import ConfigError
from align.registry import nearest
from align.rollout.environment import ENVIRONMENTS, Environment

MODULE = "align_rewards_from"  # its name among the modules of the process
NO_FILE = "none"


@dataclass
class _Loaded:
    """The one file of the process, and the functions and environments that it defines."""

    path: Path | None = None
    digest: str = NO_FILE
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)
    environments: dict[str, Callable[[], Environment]] = field(default_factory=dict)


_loaded = _Loaded()


def load(path: Path) -> None:
    """Run the file and keep its public functions and environments, those without a leading underscore.

    Raises:
        ConfigError: It cannot be read or run, defines none, or an environment of a name that is taken.
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
    public = {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", "") == MODULE and not name.startswith("_")
    }
    functions: dict[str, Callable[..., Any]] = {
        name: value for name, value in public.items() if inspect.isfunction(value)
    }
    environments = {name: value for name, value in public.items() if _is_environment(value)}
    if not functions and not environments:
        raise ConfigError(where, "defines no function", "define one: def my_reward(answers): ...")
    for name in environments:
        if name in ENVIRONMENTS:
            raise ConfigError(where, f"environment {name!r} is one of Align's own", "give it another name")
    _loaded.path, _loaded.digest = path, hashlib.sha256(source).hexdigest()[:12]
    _loaded.functions, _loaded.environments = functions, environments


def _is_environment(value: object) -> bool:
    """A class with the methods of `Environment`."""
    return inspect.isclass(value) and all(
        callable(getattr(value, name, None)) for name in ("reset", "step", "reward")
    )


def unload() -> None:
    """Forget the file."""
    _loaded.path, _loaded.digest, _loaded.functions, _loaded.environments = None, NO_FILE, {}, {}
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
    example = f"def {name}(answers): ..."
    return _named("function", name, _loaded.functions, example, where)


def find_environment(name: str, where: str) -> Callable[[], Environment]:
    """The environment of a name: one of Align's own, or a class of the file with reset, step and reward.

    Args:
        name: Of the environment.
        where: Who asks, for the message.

    Raises:
        ConfigError: It is none of Align's, and no file was named, or it defines no such class.
    """
    if name in ENVIRONMENTS:
        return ENVIRONMENTS.get(name)
    return _named("environment", name, _loaded.environments, f"class {name}: ...", where, ENVIRONMENTS)


Item = TypeVar("Item")


def _named(
    sort: str, name: str, found: Mapping[str, Item], example: str, where: str, shipped: Iterable[str] = ()
) -> Item:
    """What the file calls `name`; `shipped` are further names that might have been meant."""
    if name in found:
        return found[name]
    near = nearest(name, [*found, *shipped])
    if near:
        fix = f"did you mean {near}?"
    elif _loaded.path is None:
        fix = f"add {REWARDS_FROM}=FILE.py with {example} to the command"
    else:
        fix = f"it defines {', '.join(sorted(found)) or 'none'}"
    if _loaded.path is None:
        raise ConfigError(where, f"{sort} {name!r} stands in no file that was named", fix)
    raise ConfigError(where, f"{_loaded.path} defines no {sort} {name!r}", fix)
