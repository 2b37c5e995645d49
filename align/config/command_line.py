"""What was typed: Hydra's flags, and overrides. Nothing is composed here.

Overrides are handed to Hydra with `++`, so that a key may be given whether or not it stands in a file.
Pydantic decides whether there is such a key.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from align.config.base import Data
from align.config.refuse import Finding, refuse_key, refuse_value
from align.config.rewards import REWARDS_FROM
from align.config.stages import KINDS
from align.errors import ConfigError
from align.registry import nearest

TYPED = "command line"
REFUSED_OF_HYDRA = {
    "hydra.job.env_copy": (
        "would write the environment into the configuration",
        "set the variable where it is read",
    ),
    "hydra.searchpath": ("files would be read that are not checked", "give --config-dir DIR"),
}
DATA_KEYS = {
    name
    for options in KINDS.values()
    for name, info in options.model_fields.items()
    if info.annotation in (Data, Data | None)
}
VERBS = ("keys", "explain", "recipes", "export")


class _Parser(argparse.ArgumentParser):
    """Hydra's flags, with errors of one line."""

    @property
    def names_with_value(self) -> set[str]:
        """The flags after which a value comes."""
        return {name for name, action in self._option_string_actions.items() if action.nargs != 0}

    def error(self, message: str) -> NoReturn:
        """Refuse what argparse does not understand."""
        word = next((word for word in message.split() if word.startswith("-")), "")
        near = nearest(word, self._option_string_actions)
        raise ConfigError(TYPED, message, f"did you mean {near}?" if near else "see align --help")


@dataclass
class CommandLine:
    """A command line, taken apart.

    Attributes:
        flags: Hydra's flags with their values, as typed.
        overrides: The `key=value` words, as typed.
        options: The flags, parsed.
        findings: What is refused whatever the files say.
        rewards_from: File of the user's own reward functions, which only the command line may name.
    """

    flags: list[str]
    overrides: list[str]
    options: argparse.Namespace
    findings: list[Finding] = field(default_factory=list)
    rewards_from: Path | None = None

    @property
    def config_dir(self) -> Path | None:
        """The user's own folder of recipes."""
        return Path(self.options.config_dir).resolve() if self.options.config_dir else None

    @property
    def many(self) -> bool:
        """True where one command asks for several runs."""
        return bool(self.options.multirun) or "hydra.mode=MULTIRUN" in self.overrides

    @property
    def only_shows(self) -> bool:
        """True where Hydra prints something and nothing is run."""
        o = self.options
        return bool(o.help or o.hydra_help or o.cfg or o.info or o.shell_completion)


def parse(arguments: Sequence[str]) -> CommandLine:
    """Take a command line apart; flags may stand anywhere.

    Raises:
        ConfigError: A flag that Hydra does not have, or flags that exclude each other.
    """
    arguments, rewards_from = _take_rewards_from(arguments)
    parser = _Parser(parents=[get_args_parser()], add_help=False)
    options = parser.parse_intermixed_args(list(arguments))
    left = list(options.overrides)
    flags: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if word in left and before not in parser.names_with_value:
            left.remove(word)
        else:
            flags += word.split("=", 1) if word.startswith("--config-dir=") else [word]
    if options.config_path:  # Hydra would take it from the folder of the program, not from where it was typed
        options.config_path = str(Path(options.config_path).resolve())
        flags += ["--config-path", options.config_path]
    _check_flags(options)
    line = CommandLine(flags, list(options.overrides), options, rewards_from=rewards_from)
    for override in line.overrides:
        line.findings += check_override(override)
    return line


def _take_rewards_from(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without `rewards_from=FILE`, and that file: no key of a recipe, and nothing for Hydra."""
    head = f"{REWARDS_FROM}="
    named = [word.removeprefix(head) for word in arguments if word.startswith(head)]
    if len(named) > 1 or named == [""]:
        what = "names no file" if named == [""] else "stands twice"
        raise ConfigError(TYPED, f"{REWARDS_FROM} {what}", f"give one {REWARDS_FROM}=FILE.py")
    return [word for word in arguments if not word.startswith(head)], Path(named[0]) if named else None


def _check_flags(options: argparse.Namespace) -> None:
    if options.experimental_rerun:
        raise ConfigError(
            TYPED, "--experimental-rerun reads a pickle, which can run any code", "give the command again"
        )
    modes = [
        name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(options, name)
    ]
    if len(modes) > 1:
        named = " and ".join(f"--{name.replace('_', '-')}" for name in modes)
        raise ConfigError(TYPED, f"{named} exclude each other", "give one of them")
    if options.resolve and not (options.cfg or options.help):
        raise ConfigError(TYPED, "--resolve needs --cfg", "add --cfg job")
    if options.config_dir and not Path(options.config_dir).is_dir():
        fix = "give a folder with recipe/, model/ or data_cards/"
        raise ConfigError(TYPED, f"--config-dir {options.config_dir} is not a folder", fix)


def check_override(text: str) -> list[Finding]:
    """Everything refused in one override, before any file is read."""
    if "=" not in text and not text.startswith("~"):
        return [_unknown_word(text)]
    try:
        override = parse_override(text)
    except HydraException:
        what = f"{text.partition('=')[0]!r} is not followed by a value that can be read"
        return [Finding("", what, "quote it: 'key=\"value\"'", TYPED)]
    key = override.key_or_group
    if key in REFUSED_OF_HYDRA:
        return [Finding(key, *REFUSED_OF_HYDRA[key], TYPED)]
    for i, name in enumerate(key.replace("/", ".").split(".")):
        reason = refuse_key(name)
        if reason:
            return [Finding(".".join(key.replace("/", ".").split(".")[: i + 1]), *reason, TYPED)]
    values = list(override.sweep_iterator()) if _enumerable(override) else [override.value()]
    found = [finding for value in values for finding in refuse_value(key, value)]
    return [Finding(one.key, one.what, one.fix, TYPED) for one in found]


def _unknown_word(text: str) -> Finding:
    near = nearest(text, VERBS)
    fix = f"did you mean {near}=?" if near else f"give key=value, or one of {', '.join(VERBS)}"
    return Finding("", f"{text!r} is neither key=value nor a command", fix, TYPED)


def parse_override(text: str) -> Override:
    """One override in Hydra's grammar.

    Raises:
        HydraException: It cannot be read.
    """
    return OverridesParser.create().parse_overrides([text])[0]


def _enumerable(override: Override) -> bool:
    """True for a sweep whose values stand on the command line (`a,b`, `range(1,3)`)."""
    globs = override.value_type == ValueType.GLOB_CHOICE_SWEEP
    return override.is_sweep_override() and override.is_discrete_sweep() and not globs


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run that a sweep stands for, in Hydra's order; itself where nothing is swept."""
    choices: list[list[str]] = []
    for text in overrides:
        override = parse_override(text)
        if _enumerable(override):
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([text])
    return [list(choice) for choice in itertools.product(*choices)]


def for_hydra(overrides: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Overrides with `++` before each key, and without before each group, which Hydra wants as typed."""
    return [_forced(text, groups) for text in overrides]


def _forced(text: str, groups: Sequence[str]) -> str:
    override = parse_override(text)
    key = override.key_or_group
    is_group = override.package is not None or "/" in key or key in groups
    if is_group or override.is_delete() or override.is_hydra_override():
        return text
    text = "++" + text.lstrip("+")
    name = key.rsplit(".", 1)[-1]
    if name in DATA_KEYS and isinstance(override.value(), dict):
        # Hydra cannot put a mapping where a list stands; one source is a list of one.
        head, _, value = text.partition("=")
        return f"{head}=[{value}]"
    return text
