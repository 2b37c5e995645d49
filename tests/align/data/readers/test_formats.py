"""Formats of others: small files written here, and the real ones where the shared folder is."""
# ruff: noqa: E501 - tables

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.config.stages import DataRef
from align.data import cards
from align.data.readers import READERS, Context
from align.data.sources import local
from align.data.types import Conversation, Message, Prompt, Ranking
from align.errors import AlignError

RATINGS = """\
# dataset_version=1.0,,
harm_category,objective,assistant_response,human_score_1,human_score_2,data_type
x,ask,bad,1.0,0.5,text
x,ask,fair,0.25,0.0,text
x,ask,good,0.0,,text
x,other,safe,0.0,0.0,text
"""
MORE_RATINGS = """\
harm_category,objective,assistant_response,human_score
x,ask,good ,0.125
x,ask,so so,0.125
"""


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def read(name: str, kind: str, *paths: Path, **options: Any) -> tuple[list[Any], Context]:
    reader = READERS.get(name)
    context = Context("c", kind, reader.options(**options))
    return list(reader.read([local(path) for path in paths], context)), context


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ratings(tmp_path: Path) -> list[Path]:
    (tmp_path / "a.csv").write_text(RATINGS)
    (tmp_path / "b.csv").write_text(MORE_RATINGS)
    return [tmp_path / "a.csv", tmp_path / "b.csv"]


def test_ratings_become_rankings_by_their_mean_lower_first(ratings: list[Path]) -> None:
    rows, context = read("pyrit_ratings", "rankings", *ratings)
    # bad (1 + .5) / 2, fair (.25 + 0) / 2, good (0 + .125) / 2 over two files, so so .125: fair and so so tie
    assert rows == [
        Ranking("c/1", (user("ask"),), ("bad", "fair", "good", "so so"), (2, 1, 0, 1), (-0.75, -0.125, -0.0625, -0.125), "c"),
        Ranking("c/2", (user("other"),), ("safe",), (0,), (0.0,), "c"),
    ]  # fmt: skip
    assert not context.left_out, "a single answer ranks nothing, but is rated"


def test_ratings_become_conversations_and_prompts(ratings: list[Path]) -> None:
    rows, _ = read("pyrit_ratings", "conversations", *ratings)
    assert rows == [
        Conversation("c/1.0", (user("ask"), assistant("good")), "c"),
        Conversation("c/2.0", (user("other"), assistant("safe")), "c"),
    ]
    rows, _ = read("pyrit_ratings", "conversations", *ratings, max_rating=0.125, per_prompt=2)
    assert [row.messages[1].content for row in rows] == ["fair", "good", "safe"]
    rows, _ = read("pyrit_ratings", "prompts", *ratings)
    assert rows == [Prompt("c/1", (user("ask"),), "c"), Prompt("c/2", (user("other"),), "c")]


@pytest.mark.parametrize(
    ("score", "what"), [("1.5", "is 1.5; give 0 to 1"), ("high", "is 'high', not a number"), ("nan", "is nan; give 0 to 1")]
)  # fmt: skip
def test_ratings_that_are_none(score: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(RATINGS.replace("0.25", score))
    with pytest.raises(AlignError, match=f"a.csv: row 2: field 'human_score_1' {what}"):
        read("pyrit_ratings", "rankings", path)


def test_hh_transcripts(tmp_path: Path) -> None:
    head = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more"
    path = write(
        tmp_path / "hh.jsonl",
        {"chosen": f"{head}\n\nAssistant: yes: \n\nx", "rejected": f"{head}\n\nAssistant: no"},
        {"chosen": f"{head}\n\nAssistant: yes", "rejected": f"{head}?\n\nAssistant: no"},
        {"chosen": f"{head}\n\nAssistant: yes", "rejected": f"{head}\n\nAssistant:"},
        {"chosen": f"{head}\n\nAssistant: yes", "rejected": f"{head}\n\nAssistant: yes "},
        {"chosen": f"\n\nHuman: q{head}\n\nAssistant: y", "rejected": f"\n\nHuman: q{head}\n\nAssistant: n"},
    )
    rows, context = read("hh", "rankings", path)
    prompt = (user("q"), assistant("a"), user("more"))
    assert rows == [
        Ranking("c/1", prompt, ("yes: \n\nx", "no"), (0, 1), (), "c"),
        Ranking("c/5", (user("q\n\nq"), *prompt[1:]), ("y", "n"), (0, 1), (), "c"),
    ]
    assert context.dropped == {
        "chosen and rejected answer different prompts": 1,
        "an empty answer": 1,
        "chosen equals rejected": 1,
    }
    assert context.examples == [f"{path}:{line}" for line in (2, 3, 4)]


def reply(text: str, rank: int | None, *replies: Any, role: str = "assistant") -> dict[str, Any]:
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)}


def test_oasst_trees(tmp_path: Path) -> None:
    later = reply("q2", None, reply("c", 0), reply("d", 2), reply("e", None), role="prompter")
    tree = {"prompt": reply("q", None, reply("b", 1, later), reply("a", 0), role="prompter")}
    alone = {"prompt": reply("alone", None, reply("x", 0), role="prompter")}
    alike = {"prompt": reply("alike", None, reply("x", 0), reply("y", 0), role="prompter")}
    path = write(tmp_path / "trees.jsonl", tree, alone, alike)
    rows, context = read("oasst_rankings", "rankings", path)
    assert rows == [
        Ranking("c/1.0", (user("q"),), ("b", "a"), (1, 0), (), "c"),
        Ranking("c/1.1", (user("q"), assistant("b"), user("q2")), ("c", "d"), (0, 1), (), "c"),
    ]
    assert context.left_out == {"prompts with fewer than two ranked answers": 2}


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        (reply("q", None, role="bot"), "field 'prompt.role' is 'bot'; give prompter or assistant"),
        ({"role": "prompter"}, "field 'prompt.text' is null, not text"),
        (reply("q", None, "a", role="prompter"), r"field 'prompt.replies\[0\]' is text, not a message"),
        (reply("q", None, role="prompter") | {"replies": 3}, "field 'prompt.replies' is a number"),
        (reply("q", None, reply("a", "best"), role="prompter"), r"field 'prompt.replies\[0\].rank' is text, not a number"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_broken_trees(tree: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(AlignError, match=rf"trees.jsonl:1: {what}"):
        read("oasst_rankings", "rankings", write(tmp_path / "trees.jsonl", {"prompt": tree}))


def test_a_tree_without_end(tmp_path: Path) -> None:
    tree = reply("x", 0)
    for _ in range(150):
        tree = reply("x", 0, tree)
    path = write(tmp_path / "trees.jsonl", {"prompt": tree | {"role": "prompter"}})
    with pytest.raises(AlignError, match="field 'prompt' is a tree of more than 100 levels"):
        read("oasst_rankings", "rankings", path)


def test_self_instruct(tmp_path: Path) -> None:
    instances = [{"input": "", "output": "o1"}, {"input": " in ", "output": "o2\n"}]
    path = write(tmp_path / "seed.jsonl", {"instruction": "do", "instances": instances})
    rows, _ = read("self_instruct", "conversations", path)
    assert rows == [
        Conversation("c/1.0", (user("do"), assistant("o1")), "c"),
        Conversation("c/1.1", (user("do\n\nin"), assistant("o2")), "c"),
    ]
    write(path, {"instruction": "do", "instances": [{"output": " "}]})
    with pytest.raises(AlignError, match=r"field 'instances\[0\].output' is empty"):
        read("self_instruct", "conversations", path)


def test_everyday_requests(tmp_path: Path) -> None:
    row = {"id": "e1", "prompt": "q", "good": ["g1", "g2"], "poor": ["p"], "refusal": ["r"]}
    path = write(tmp_path / "e.jsonl", row)
    rows, _ = read("everyday", "rankings", path)
    assert rows == [Ranking("c/e1", (user("q"),), ("g1", "g2", "p", "r"), (0, 0, 1, 2), (), "c")]
    rows, _ = read("everyday", "conversations", path)
    assert [(row.id, row.messages[1].content) for row in rows] == [("c/e1.0", "g1"), ("c/e1.1", "g2")]
    rows, _ = read("everyday", "prompts", path)
    assert rows == [Prompt("c/e1", (user("q"),), "c")]
    with pytest.raises(AlignError, match="e.jsonl:1: field 'poor' is missing"):
        read("everyday", "rankings", write(path, {k: v for k, v in row.items() if k != "poor"}))


@pytest.mark.shared
def test_real_hh_rlhf(shared: Path) -> None:
    ref = DataRef(card="hh_rlhf", path=str(shared / "data/hh-rlhf/harmless-base-dev.jsonl"))
    parts = [cards.load(ref, "rankings", part) for part in ("train", "test")]
    assert sum(map(len, parts)) + sum(parts[0].dropped.values()) == 1702
    assert sum(parts[0].dropped.values()) <= 12
    assert all(row.prompt[-1].role == "user" and row.tiers == (0, 1) for row in parts[0])


def content(rows: list[Ranking]) -> list[Any]:
    """Prompts with their answers, best first."""
    return sorted((repr(row.prompt), sorted(zip(row.tiers, row.answers, strict=True))) for row in rows)


@pytest.mark.shared
def test_real_oasst_trees_give_the_rankings_that_were_derived_from_them(shared: Path) -> None:
    found = []
    for name in ("trees.jsonl", "rankings.jsonl"):
        ref = DataRef(card="oasst_rankings", path=str(shared / "data/oasst-en100" / name))
        found.append([*cards.load(ref, "rankings", "train"), *cards.load(ref, "rankings", "test")])
    assert [len(rows) for rows in found] == [147, 147]
    assert content(found[0]) == content(found[1])


@pytest.mark.shared
def test_real_seed_tasks(shared: Path) -> None:
    ref = DataRef(card="self_instruct", path=str(shared / "data/self-instruct/seed_tasks.jsonl"))
    parts = [cards.load(ref, "conversations", part) for part in ("train", "test")]
    assert sum(map(len, parts)) == 175


SOLUTION = "He has 48/2 = <<48/2=24>>24 of them.\nThat is $<<24*50=1200>>1,200.\n#### 1,200"


def test_gsm8k_as_conversations_and_as_prompts_with_the_result(tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", {"question": " How many? ", "answer": SOLUTION})
    rows, _ = read("gsm8k", "conversations", path)
    turns = (user("How many?"), assistant("He has 48/2 = 24 of them.\nThat is $1,200.\n#### 1,200"))
    assert rows == [Conversation("c/1", turns, "c", facts={"answer": "1200"})]
    ref = DataRef(card="gsm8k", path=str(path))
    both = [row for part in ("train", "test") for row in _loaded(ref, part)]
    assert both == [Prompt("gsm8k/1", (user("How many?"),), "gsm8k", {"answer": "1200"})]


def _loaded(ref: DataRef, part: Any) -> list[Any]:
    try:
        return list(cards.load(ref, "prompts", part))
    except AlignError:  # the one row is in the other part
        return []


@pytest.mark.parametrize(
    ("solution", "what"),
    [
        ("It is 42.", "field 'answer' states 0 results behind ####"),
        ("#### 1\n#### 2", "field 'answer' states 2 results behind ####"),
    ],
)
def test_gsm8k_solutions_without_one_result(solution: str, what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "g.jsonl", {"question": "q", "answer": solution})
    with pytest.raises(AlignError, match=f"g.jsonl:1: {what}"):
        read("gsm8k", "conversations", path)


def test_ifeval_instructions_become_constraints(tmp_path: Path) -> None:
    row = {
        "key": 1000,
        "prompt": "q",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{"num_words": None}, {"relation": "at least", "num_words": 3, "letter": None}],
    }
    rows, _ = read("ifeval", "prompts", write(tmp_path / "i.jsonl", row))
    constraints = [
        {"name": "punctuation:no_comma"},
        {"name": "length_constraints:number_words", "relation": "at least", "num_words": 3},
    ]
    assert rows == [Prompt("c/1000", (user("q"),), "c", {"constraints": constraints})]
    for broken in (None, [{}], [{}, 3]):
        path = write(tmp_path / "i.jsonl", {**row, "kwargs": broken})
        with pytest.raises(AlignError, match=r"i\.jsonl:1: field 'kwargs"):
            read("ifeval", "prompts", path)


@pytest.mark.shared
def test_real_gsm8k(shared: Path) -> None:
    ref = DataRef(card="gsm8k", path=str(shared / "data/gsm8k/train.jsonl"))
    parts = [cards.load(ref, "prompts", part) for part in ("train", "test")]
    assert sum(map(len, parts)) == 7473
    assert all(set(row.facts) == {"answer"} and row.facts["answer"] for part in parts for row in part)
    assert 0.08 < len(parts[1]) / 7473 < 0.12
    talks = cards.load(ref, "conversations", "train")
    assert not any("<<" in row.messages[1].content for row in talks)


@pytest.mark.shared
def test_real_ifeval(shared: Path) -> None:
    ref = DataRef(card="ifeval", path=str(shared / "data/ifeval/ifeval_en.jsonl"))
    parts = [cards.load(ref, "prompts", part) for part in ("train", "test")]
    assert sum(map(len, parts)) == 541
