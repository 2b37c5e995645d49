"""The one redactor: everything that is printed, logged or put on the report page passes it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY|KEY|CREDENTIALS?)(?:_|$)", re.IGNORECASE
)
# Shorter values ("1", "false", "none") would blank out ordinary words of every line.
SHORTEST_VALUE = 8
TOKENS = re.compile(
    r"hf_[A-Za-z0-9]{8,}"
    r"|sk-[A-Za-z0-9_-]{8,}"
    r"|gh[opsu]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}"
    r"|AKIA[A-Z0-9]{16}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{8,}"
)


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Values of the variables whose names look like secrets, longest first."""
    found = {
        value for name, value in environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST_VALUE
    }
    return sorted(found, key=len, reverse=True)


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """`text` without secrets.

    Blanks the values of environment variables whose names look like secrets (`HF_TOKEN`, `WANDB_API_KEY`,
    ...), well-known token shapes (`hf_...`, `sk-...`) and `user:password@` in addresses.

    Args:
        text: Any text.
        environ: Environment to take values from; default: the process's.

    Example:
        >>> redact("login with hf_abcdefgh12345678", {})
        'login with [redacted]'
    """
    for value in secret_values(os.environ if environ is None else environ):
        text = text.replace(value, REDACTED)
    return TOKENS.sub(REDACTED, text)
