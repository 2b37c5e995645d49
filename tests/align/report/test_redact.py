"""What must not be printed is not printed, and ordinary words are left alone."""

from __future__ import annotations

import pytest

from align.report.redact import redact

ENVIRON = {
    "HF_TOKEN": "hfsecretvalue",
    "WANDB_API_KEY": "0123456789abcdef",
    "DB_PASSWORD": "correct horse",
    "MY_SECRET": "hfsecretvalue-longer",
    "TOKENIZERS_PARALLELISM": "disabled",
    "APP_TOKEN": "short",
    "HOME": "/home/somebody",
}


@pytest.mark.parametrize("value", ["hfsecretvalue", "0123456789abcdef", "correct horse"])
def test_values_of_secret_variables_are_blanked(value: str) -> None:
    assert redact(f"before {value} after", ENVIRON) == "before [redacted] after"


def test_the_longer_of_two_nested_values_goes_first() -> None:
    assert redact("x hfsecretvalue-longer y", ENVIRON) == "x [redacted] y"


def test_ordinary_values_and_short_values_stay() -> None:
    text = "disabled by short in /home/somebody"
    assert redact(text, ENVIRON) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("hf_AbCdEfGhIjKlMnOp", "[redacted]"),
        ("key=sk-proj-abcdEFGH1234", "key=[redacted]"),
        ("ghp_0123456789abcdefghij", "[redacted]"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted]"),
        ("get https://me:pass1234@example.org/x", "get https://[redacted]@example.org/x"),
        ("the task-list and hf_hub stay", "the task-list and hf_hub stay"),
    ],
)
def test_token_shapes(text: str, clean: str) -> None:
    assert redact(text, {}) == clean


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "from-the-environment")
    assert redact("a from-the-environment b") == "a [redacted] b"
