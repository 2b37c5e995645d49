"""Readers: from the files of a source to rows. A reader exists for a format, not for a data set.

A reader is a function `(files, context) -> rows`, filed in `READERS` under its name with the options that a
card may set. Importing this package files the shipped ones.
"""

from __future__ import annotations

from align.data.readers import everyday, gsm8k, hh, ifeval, oasst, own, pyrit_ratings, self_instruct
from align.data.readers.base import READERS, Context

__all__ = [
    "READERS",
    "Context",
    "everyday",
    "gsm8k",
    "hh",
    "ifeval",
    "oasst",
    "own",
    "pyrit_ratings",
    "self_instruct",
]
