"""What may stand neither in a recipe nor on the command line: Python, secrets, values of the environment."""

from __future__ import annotations

import re
from dataclasses import dataclass

HYDRA_CALLS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})
SECRET_WORDS = frozenset(
    {"token", "password", "passwd", "passphrase", "secret", "secrets", "apikey", "credential", "credentials"}
)
SECRET_PAIRS = ("api_key", "access_key", "private_key", "secret_key", "auth_key")
PLAIN_INTERPOLATION = re.compile(r"\$\{\.*[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*\}")
INTERPOLATION = re.compile(r"\$\{[^}]*\}?")


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a recipe.

    Attributes:
        key: Dotted key path, empty where the trouble is a whole file or command line.
        what: What is wrong, with the value.
        fix: What to do about it.
        where: `file:line` or `command line` where it is already known; else found from the key.
    """

    key: str
    what: str
    fix: str = ""
    where: str = ""


def refuse_key(name: str) -> tuple[str, str] | None:
    """Why a key of this name is refused, and what to do; None where it is not."""
    if name in HYDRA_CALLS:
        return "a recipe never names Python code", "name a component that Align knows"
    lowered = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_")
    if SECRET_WORDS & set(lowered.split("_")) or any(pair in lowered for pair in SECRET_PAIRS):
        return (
            "looks like a secret, which a recipe never holds",
            "set an environment variable such as HF_TOKEN instead",
        )
    return None


def refuse_text(text: str) -> tuple[str, str] | None:
    """Why a text is refused: it asks to compute something (`${oc.env:HOME}`) rather than to copy a key."""
    rest = PLAIN_INTERPOLATION.sub("", text)
    found = INTERPOLATION.search(rest)
    if found is None:
        return None
    return f"{found.group(0)[:80]} is not looked up", "only ${another.key} is; write the value itself"


def refuse_value(key: str, value: object) -> list[Finding]:
    """All that is refused in a value and in what it contains."""
    if isinstance(value, str):
        reason = refuse_text(value)
        return [Finding(key, *reason)] if reason else []
    if isinstance(value, list):
        return [finding for i, item in enumerate(value) for finding in refuse_value(f"{key}.{i}", item)]
    if not isinstance(value, dict):
        return []
    findings: list[Finding] = []
    for name, item in value.items():
        below = f"{key}.{name}"
        reason = refuse_key(str(name))
        findings += [Finding(below, *reason)] if reason else refuse_value(below, item)
    return findings
