"""The ids of the IFEval data (arXiv:2311.07911) as constraints of this project.

Departures: sentences are counted by a rule instead of nltk's trained splitter, and the constraints of case do
not also ask for English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LESS = "less than"
RELATIONS = {"at least": "at_least", "at most": "at_most", "exactly": "exactly"}
LANGUAGE = 2  # letters of the code that some copies of the data put before an id: en:punctuation:no_comma


@dataclass(frozen=True)
class _Id:
    """What an id stands for.

    Attributes:
        name: Of the constraint.
        keys: Our name of a key -> the data's.
        count: The data's key of a number.
        relation: The data's key of how the number is meant, or that word itself.
        fixed: What is always so.
    """

    name: str
    keys: Mapping[str, str] = field(default_factory=dict)
    count: str = ""
    relation: str = "relation"
    fixed: Mapping[str, Any] = field(default_factory=dict)


_YES_NO = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
IDS = {
    "keywords:existence": _Id("keywords", {"words": "keywords"}),
    "keywords:forbidden_words": _Id("forbidden_words", {"words": "forbidden_words"}),
    "keywords:frequency": _Id("keyword_frequency", {"word": "keyword"}, "frequency"),
    "keywords:letter_frequency": _Id(
        "letter_frequency", {"letter": "letter"}, "let_frequency", "let_relation"
    ),
    "language:response_language": _Id("language", {"language": "language"}),
    "length_constraints:number_words": _Id("words", {}, "num_words"),
    "length_constraints:number_sentences": _Id("sentences", {}, "num_sentences"),
    "length_constraints:number_paragraphs": _Id(
        "paragraphs", {}, "num_paragraphs", "exactly", {"separator": "stars"}
    ),
    "length_constraints:nth_paragraph_first_word": _Id(
        "paragraph_starts_with",
        {"paragraphs": "num_paragraphs", "nth": "nth_paragraph", "word": "first_word"},
    ),
    "detectable_content:number_placeholders": _Id("placeholders", {}, "num_placeholders", "at least"),
    "detectable_content:postscript": _Id("postscript", {"marker": "postscript_marker"}),
    "detectable_format:number_bullet_lists": _Id("bullets", {}, "num_bullets", "exactly"),
    "detectable_format:number_highlighted_sections": _Id("highlights", {}, "num_highlights", "at least"),
    "detectable_format:multiple_sections": _Id(
        "sections", {"marker": "section_spliter"}, "num_sections", "at least"
    ),
    "detectable_format:constrained_response": _Id("one_of", fixed={"phrases": _YES_NO}),
    "detectable_format:json_format": _Id("json"),
    "detectable_format:title": _Id("title"),
    "combination:two_responses": _Id("two_answers"),
    "combination:repeat_prompt": _Id("starts_with", {"phrase": "prompt_to_repeat"}),
    "startend:end_checker": _Id("ends_with", {"phrase": "end_phrase"}),
    "startend:quotation": _Id("quoted"),
    "change_case:capital_word_frequency": _Id("capital_words", {}, "capital_frequency", "capital_relation"),
    "change_case:english_capital": _Id("uppercase"),
    "change_case:english_lowercase": _Id("lowercase"),
    "punctuation:no_comma": _Id("no_commas"),
}


def translated(spec: Any) -> Any:
    """A constraint under an id of IFEval as one of ours; anything else as it is.

    Args:
        spec: An id as its `name`, and the data's keys; those that are null count as absent, since tables have
            a cell for every key.

    Raises:
        ValueError: No such id, or a key that it needs is missing.

    Example:
        >>> translated({"name": "length_constraints:number_words", "num_words": 3, "relation": "less than"})
        {'name': 'words', 'at_most': 2}
    """
    if not isinstance(spec, dict) or ":" not in str(spec.get("name")):
        return spec
    name = _without_language(str(spec["name"]))
    if name not in IDS:
        raise ValueError(f"no constraint is called {spec['name']!r}")
    known = IDS[name]
    given = {key: value for key, value in spec.items() if value is not None}
    try:
        found = {ours: given[theirs] for ours, theirs in known.keys.items()}
        bound = _bound(given[known.count], given.get(known.relation, known.relation)) if known.count else {}
    except KeyError as error:
        raise ValueError(f"constraint {spec['name']!r} lacks {error.args[0]!r}") from None
    return {"name": known.name, **found, **bound, **known.fixed}


def _without_language(name: str) -> str:
    code, _, rest = name.partition(":")
    return rest if len(code) == LANGUAGE and ":" in rest else name


def _bound(count: Any, relation: str) -> dict[str, Any]:
    if relation == LESS and isinstance(count, int):
        return {"at_most": count - 1}
    if relation not in RELATIONS:
        raise ValueError(f"{relation!r} is none of {', '.join([*RELATIONS, LESS])}")
    return {RELATIONS[relation]: count}
