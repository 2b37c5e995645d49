"""Unit tests of the Python that an answer holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from align.config.rewards import PythonTestsReward
from align.errors import ResourceError
from align.reward.scorers.sandbox import Limits, run_tests
from align.reward.types import Answered, Scorer, Scores

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
MEGABYTE = 2**20


def python_tests_scorer(options: PythonTestsReward) -> Scorer:
    """The part of the prompt's `tests` that pass, or 1 only where all do. See `sandbox.py` for how they run.

    Raises:
        ResourceError: No process can be started.
    """
    limits = Limits(options.seconds, options.memory_mb * MEGABYTE)

    def score(answer: Answered) -> float:
        tests = sources_of(answer.fact("tests"))
        try:
            passed = run_tests(program_of(answer.text), tests, limits)
        except OSError as error:
            what = f"no child process can be started for row {answer.id}: {error.strerror}"
            raise ResourceError("python_tests", what, "lower its workers") from None
        return float(all(passed)) if options.aggregate == "min" else sum(passed) / len(passed)

    def scorer(answers: Sequence[Answered]) -> Scores:
        with ThreadPoolExecutor(options.workers or os.cpu_count() or 1) as pool:
            return Scores(torch.tensor(list(pool.map(score, answers))))

    return scorer


def program_of(text: str) -> str:
    r"""The Python of an answer: what stands in its fences of three backticks, else all of it.

    Example:
        >>> program_of("Here it is:\n```python\nx = 1\n```\nDone.")
        'x = 1\n'
    """
    return "\n".join(_FENCE.findall(text)) or text


def sources_of(given: Any) -> list[str]:
    """The tests of a row: sources in a list, or one source.

    Raises:
        ValueError: Neither.
    """
    tests = [given] if isinstance(given, str) else given
    if not isinstance(tests, list) or not tests or not all(isinstance(one, str) for one in tests):
        raise ValueError("is no list of texts")
    return tests
