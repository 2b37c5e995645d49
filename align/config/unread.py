"""Options that were changed and that nothing reads."""

from __future__ import annotations

from pydantic import BaseModel

from align.config.refuse import Finding


def unread(key: str, options: BaseModel, name: str, by: str, instead: str = "") -> list[Finding]:
    """A finding where an option is not at its default, to be asked for where nothing reads it.

    Args:
        key: Of the options: `stages.dpo`, `adapter`.
        options: Right by themselves.
        name: Of the option.
        by: What does not read it: `stages.dpo.loss=ipo`.
        instead: What would, in the same form; empty where nothing would.
    """
    value = getattr(options, name)
    default = type(options).model_fields[name].get_default(call_default_factory=True)
    if value == default:
        return []
    back = f"{key}.{name}={_typed(default)}"
    fix = f"try {instead}, or {back}" if instead else f"try {back}"
    return [Finding(f"{key}.{name}", f"{_typed(value)} is not read by {by}", fix)]


def _typed(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    text = str(value)
    return repr(text) if " " in text else text
