"""Final answers of mathematics: found in the text, compared as numbers, as texts or as expressions."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from align.config.rewards import MathReward
from align.reward.types import Answered, Scorer, one_by_one

Format = Literal["auto", "hash", "boxed", "last_number"]
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = rf"(?:{_DIGITS})(?:\s*/\s*(?:{_DIGITS}))?"
_LAST = re.compile(rf"(?:(?<![\w.)\]}}])[-+])?(?:{_NUMBER})")  # the minus of 5-3 is no sign
_WHOLE = re.compile(rf"([-+]?)\s*\$?\s*([-+]?)({_NUMBER})\s*%?(?:\s+[A-Za-z ]+)?\.?")
_FRACTION = re.compile(r"\\[dt]?frac\{\s*(-?\d+)\s*\}\{\s*(\d+)\s*\}")
_SPACING = re.compile(r"\\[,!; ]|\\(?=[$%])")
_HASH = re.compile(r"####[ \t]*(\S[^\n]*)")
_BOX = "\\boxed{"


def math_scorer(options: MathReward) -> Scorer:
    """1 where the final answer equals that of the prompt, else 0, also where there is none."""
    equal = symbolically_equal if options.equality == "symbolic" else plainly_equal

    def score(answer: Answered) -> float:
        found = final_answer(answer.text, options.answer_format)
        return float(found is not None and equal(found, right_answer(answer.fact("answer"))))

    return one_by_one(score)


def final_answer(text: str, answer_format: Format) -> str | None:
    r"""The result that a text states; None where it states none in that format.

    Args:
        text: A worked solution.
        answer_format: `hash`: what follows the last `####` on its line; `boxed`: what stands in the last
            `\boxed{}`; `last_number`; `auto`: the first of these that is there.

    Example:
        >>> final_answer("6 x 7 makes 42.\n#### 42", "hash")
        '42'
        >>> final_answer(r"So 2 of 4, thus \boxed{\frac{2}{4}}.", "auto")
        '\\frac{2}{4}'
    """
    if answer_format == "hash":
        return _last(_HASH.findall(text))
    if answer_format == "boxed":
        return _boxed(text)
    if answer_format == "last_number":
        return _last(_LAST.findall(text))
    return final_answer(text, "hash") or _boxed(text) or final_answer(text, "last_number")


def right_answer(stated: str) -> str:
    """The result in a prompt's `answer`, which may also be a whole solution with `####` or a box."""
    return final_answer(stated, "hash") or _boxed(stated) or stated.strip()


def plainly_equal(given: str, wanted: str) -> bool:
    """Equal as numbers, else as texts.

    Signs of thousands, currency and percent and words behind a number do not count; of texts, case and
    spaces.

    Example:
        >>> plainly_equal("$1,200.00", "1200 dollars"), plainly_equal("1/2", "0.5"), plainly_equal("-3", "3")
        (True, True, False)
    """
    numbers = number(given), number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return _folded(given) == _folded(wanted)


def symbolically_equal(given: str, wanted: str) -> bool:
    """Plainly equal, or equal as expressions to math-verify; two numbers that differ stay different."""
    if plainly_equal(given, wanted):
        return True
    if number(given) is not None and number(wanted) is not None:
        return False
    from math_verify import parse, verify

    # The box is what math-verify looks for first, so that it reads the whole of what was found.
    return bool(verify(parse(f"${_BOX}{wanted}}}$"), parse(f"${_BOX}{given}}}$")))


def number(text: str) -> Fraction | None:
    """The exact value of a text that is one number, None for any other."""
    plain = _SPACING.sub("", _FRACTION.sub(r"\1/\2", text))
    found = _WHOLE.fullmatch(plain.strip().strip("$ "))
    if found is None or (found[1] and found[2]):
        return None
    digits = re.sub(r"[,\s]", "", found[3])
    above, _, below = digits.partition("/")
    try:
        value = Fraction(above) / Fraction(below or "1")
    except (ValueError, ZeroDivisionError):  # more digits than Python turns into a number, or n/0
        return None
    return -value if "-" in (found[1], found[2]) else value


def _last(found: list[str]) -> str | None:
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    """What stands between the braces of the last box that is closed."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 1
    for end in range(start + len(_BOX), len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start + len(_BOX) : end].strip() or None
    return None


def _folded(text: str) -> str:
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[\s$]", "", plain).rstrip(".").casefold()
