"""Text that models and data wrote, made safe to show on a terminal or a page."""

from __future__ import annotations

import re
from dataclasses import dataclass

from align.report.redact import redact

MAX_CHARS = 4000
# C0 without tab and newline, DEL, C1; marks that reorder or hide text; lone surrogates (UTF-8 has none).
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


@dataclass(frozen=True)
class Shown:
    """A text cut to what a page shows, and the number of characters left out."""

    text: str
    omitted: int = 0


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def visible(text: str) -> str:
    r"""Control, bidirectional and zero-width characters as visible marks; tabs and newlines stay.

    Example:
        >>> visible("\x1b[31mred")
        '␛[31mred'
    """
    return UNSAFE.sub(_picture, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = MAX_CHARS) -> str:
    """`text` as one safe line without secrets, for the terminal and the log."""
    line = " ".join(visible(redact(text)).split())
    return line if len(line) <= limit else f"{line[:limit]}... ({len(line) - limit:,} more characters)"


def shown(text: str, limit: int = MAX_CHARS) -> Shown:
    """`text` for the page: safe, without secrets, at most `limit` characters.

    It still has to be escaped; the page's template does that.
    """
    clean = redact(text)
    return Shown(visible(clean[:limit]), max(0, len(clean) - limit))
