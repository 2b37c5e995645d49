"""Hostile text becomes visible, bounded text."""

from __future__ import annotations

import pytest

from align.report.text import Shown, one_line, shown, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x07", "\u241b[31mred\u2407"),
        ("a\x7fb\x9b", "a\u2421b<U+009B>"),
        ("abc\u202edef", "abc<U+202E>def"),
        ("zero\u200bwidth", "zero<U+200B>width"),
        ("lone \ud800 half", "lone <U+D800> half"),
        ("tab\tand\nline\r\nkept", "tab\tand\nline\nkept"),
        ("héllo, 世界 👩\u200d🚀", "héllo, 世界 👩\u200d🚀"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    assert visible(text) == expected
    visible(text).encode("utf-8")


def test_one_line_folds_lines_and_says_what_it_cuts() -> None:
    assert one_line("two\n  lines") == "two lines"
    assert one_line("x" * 30, limit=10) == "xxxxxxxxxx... (20 more characters)"


def test_shown_counts_what_it_leaves_out() -> None:
    assert shown("abc", limit=3) == Shown("abc", 0)
    assert shown("a" * 1_000_000, limit=4000) == Shown("a" * 4000, 996_000)


def test_a_secret_at_the_cut_is_not_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "opensesame-opensesame")
    assert "open" not in shown("xxxx opensesame-opensesame", limit=12).text
