"""Errors that a person can act on: one line that says where, what, and what to do.

Every error that Align raises on purpose is an `AlignError`; its `exit_code` is the exit code of the command.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc", re.IGNORECASE
)


class AlignError(Exception):
    """An error shown as one line, `where: what; fix`, without a traceback.

    Args:
        where: File with line, row or key path, or the thing that failed.
        what: What is wrong, with the offending value.
        fix: What to do about it.

    Attributes:
        key: Key path of the option that led there (`stages.sft.data`), where `where` is no key path itself;
            empty where none did. The place in the recipe is found from it.
    """

    exit_code = 1
    key = ""

    def __init__(self, where: str, what: str, fix: str = "") -> None:
        self.where, self.what, self.fix = where, what, fix
        super().__init__(f"{where}: {what}; {fix}" if fix else f"{where}: {what}")


class ConfigError(AlignError):
    """A recipe, an override or a command line that cannot be run."""

    exit_code = 2


class DataError(AlignError):
    """A row, file or data set that cannot be trained on."""

    exit_code = 2


class IntegrityError(AlignError):
    """Something on disk is not what was written."""

    exit_code = 3


class ResourceError(AlignError):
    """Not enough memory, disk, files or network."""

    exit_code = 4


class DistributedError(AlignError):
    """A process of a run on several failed, hung or disagreed; no run has several yet."""

    exit_code = 5


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, in Python, in torch on a CPU, or on a GPU."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))
    )


class NumericsError(AlignError):
    """A loss, gradient, weight or invariant that cannot be right."""

    exit_code = 6


class Interrupted(AlignError):
    """The run was asked to stop; its state is saved and the same command resumes it."""

    exit_code = 75


class Problems(AlignError):
    """Several errors found in one pass, shown one per line.

    The exit code is that of the first error.
    """

    def __init__(self, errors: Sequence[AlignError]) -> None:
        self.errors = list(errors)
        self.exit_code = self.errors[0].exit_code if self.errors else 2
        Exception.__init__(self, "\n".join(str(error) for error in self.errors))


def raise_all(errors: Sequence[AlignError]) -> None:
    """Raise nothing, the single error, or all of them as `Problems`."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise Problems(errors)


@contextmanager
def collected(errors: list[AlignError]) -> Iterator[None]:
    """Add errors that a person can mend to `errors`, each once, so that all are told together."""
    try:
        yield
    except AlignError as error:
        for one in _each(error):
            if str(one) not in map(str, errors):
                errors.append(one)


@contextmanager
def keyed(key: str) -> Iterator[None]:
    """Give errors the key path of the option that led to them, unless they have one."""
    try:
        yield
    except AlignError as error:
        for one in _each(error):
            one.key = one.key or key
        raise


def _each(error: AlignError) -> list[AlignError]:
    return error.errors if isinstance(error, Problems) else [error]


@cache
def warn_once(text: str) -> None:
    """Say on the log what is no error and must be known, the first time that it comes up in a process."""
    logging.getLogger("align").warning("%s", text)
