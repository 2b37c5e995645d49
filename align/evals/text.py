"""Measures of text that need no model: length and variety."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words_of(text: str) -> list[str]:
    """Lower-case words; marks between them are left out, apostrophes inside them stay.

    Example:
        >>> words_of("I can't -- really, I can't!")
        ['i', "can't", 'really', 'i', "can't"]
    """
    return _WORD.findall(text.lower())


def length_words(text: str) -> int:
    """Number of words.

    Example:
        >>> length_words("Two words.")
        2
    """
    return len(words_of(text))


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words over all n-grams, all texts together (arXiv:1510.03055, Sec. 4.3).

    Falls with the amount of text, so compare only answers to the same prompts with the same limit.

    Args:
        texts: Texts; an n-gram does not cross from one into the next.
        n: Words of an n-gram, at least 1.

    Returns:
        1 where nothing is said twice; 0 where no text has n words.

    Example:
        >>> distinct_n(["a b a b", "a b"], 2)  # ab ba ab | ab
        0.5
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        found = words_of(text)
        grams += [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def distinct_openings(texts: Sequence[str], words: int = 4) -> float:
    """Different first words over the number of texts: near 0 where one canned answer is given to everything.

    Args:
        texts: Texts; a shorter text is its own opening, an empty text as well.
        words: Words of an opening.

    Returns:
        1 where no two texts open alike; 0 without texts.

    Example:
        >>> distinct_openings(["I can't help with that.", "I can't help with this.", "Boil it."])
        0.6666666666666666
    """
    openings = {tuple(words_of(text)[:words]) for text in texts}
    return len(openings) / len(texts) if texts else 0.0
