"""From what was raised to what a person reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import OutOfMemoryError

from align.errors import ConfigError, DataError, NumericsError, Problems, keyed
from align.pipeline.failure import exit_code, explain, lines, trace

RUNS, LOG = Path("runs"), Path("runs/x/log.txt")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("a:3", "is empty", "fill it"), 2, "a:3: is empty; fill it"),
        (NumericsError("step 3", "loss nan"), 6, "step 3: loss nan"),
        (MemoryError(), 4, "memory: ran out after a peak of 3.2 GB; lower tokens_per_microbatch"),
        (OutOfMemoryError("CUDA out of memory. Tried ..."), 4, "memory: ran out after a peak of 3.2 GB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), 4, "memory: ran out"),
        (OSError(28, "No space left on device", "a/b"), 4, "a/b: No space left on device (ENOSPC, errno 28)"),
        (OSError(28, "No space left on device"), 4, "runs: No space left on device (ENOSPC, errno 28)"),
        (
            RuntimeError("I/O error: Input/output error (os error 5)"),
            4,
            "runs: Input/output error (EIO, errno 5)",
        ),
        (KeyError("x"), 1, "a defect in Align: KeyError: 'x'; the traceback is in runs/x/log.txt"),
        (RuntimeError("bad\nsecond line"), 1, "a defect in Align: RuntimeError: bad; the traceback is in"),
        (AssertionError(), 1, "a defect in Align: AssertionError; the traceback is in"),
        (FileNotFoundError(2, "No such file", "q"), 1, "a defect in Align: FileNotFoundError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_line_and_the_right_exit_code(error: BaseException, code: int, said: str) -> None:
    found = explain(error, RUNS, 3.21)
    (line,) = lines(found, LOG)
    assert line.startswith(said)
    assert exit_code(found) == code


class Places:
    """Of the keys of these tests."""

    def nearest(self, key: str) -> str:
        """File and line, or the command line."""
        return {"model": "smol.yaml", "model.path": "command line", "stages.ppo.lr": "rlhf.yaml:12"}[key]


def test_several_errors_are_several_lines_with_their_places() -> None:
    problems = Problems(
        [ConfigError("model.path", "no"), ConfigError("stages.ppo.lr", "big"), DataError("x", "y")]
    )
    assert lines(problems, LOG, Places()) == [
        "command line: model.path: no",
        "rlhf.yaml:12: stages.ppo.lr: big",
        "x: y",
    ]
    assert exit_code(problems) == 2


def test_the_option_that_led_to_an_error_says_its_place() -> None:
    """Where an error names a file, and not the option; one that names another option keeps that."""
    tokenizer = ConfigError("tokenizer", "has no EOS")
    with pytest.raises(ConfigError), keyed("model"):
        raise tokenizer
    row = DataError("a.jsonl:3", "is empty", "fill it")
    with pytest.raises(Problems) as caught, keyed("stages.ppo.lr"):
        raise Problems([row, tokenizer, ConfigError("model.path", "no")])
    assert lines(caught.value, LOG, Places()) == [
        "rlhf.yaml:12: stages.ppo.lr: a.jsonl:3: is empty; fill it",
        "smol.yaml: model: tokenizer: has no EOS",
        "command line: model.path: no",
    ]
    assert lines(caught.value, LOG)[0] == "a.jsonl:3: is empty; fill it"


def test_without_a_log_it_says_how_to_see_more() -> None:
    assert lines(KeyError("x"), None) == ["a defect in Align: KeyError: 'x'; debug=true shows the traceback"]


def test_the_trace_holds_causes() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise DataError("a", "b") from error
    except DataError as error:
        found = trace(error)
    assert "KeyError: 'inner'" in found
    assert "a: b" in found
