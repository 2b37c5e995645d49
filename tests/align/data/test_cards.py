"""Cards and references: what a name stands for, what is loaded from it, and what it is."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from align.config.base import DataRef
from align.data import cards, sources
from align.data.types import Ranking
from align.errors import DataError, Problems

CARD = """---
name: mine
kind: rankings
source: {type: file, path: mine.jsonl}
reader: own
fields: {prompt: question, answers: replies, ratings: stars}
split: {test: 0.5}
licence: my own
---
Answers that I rated.
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder of cards with one card and its file."""
    monkeypatch.setattr(cards, "_folders", list(cards._folders))
    (tmp_path / "mine.md").write_text(CARD)
    rows = ({"question": f"q{i}", "replies": ["a", "b"], "stars": [1, 2 + i]} for i in range(40))
    write(tmp_path / "mine.jsonl", *rows)
    cards.add_folder(tmp_path)
    yield tmp_path
    cards._find.cache_clear()


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts(tmp_path: Path, name: str, *texts: str) -> str:
    return str(write(tmp_path / f"{name}.jsonl", *({"prompt": text} for text in texts)))


def both(data: Any, expect: Any = "prompts") -> list[Any]:
    return [row for part in ("train", "test") for row in cards.load(data, expect, part)]  # type: ignore[arg-type]


# --- the shipped cards ------------------------------------------------------------------------------


def test_every_shipped_card_reads_and_says_what_a_person_must_know() -> None:
    names = cards.card_names()
    assert {"pyrit_safe_answers", "pyrit_harm_rankings", "pyrit_prompts", "hh_rlhf"} <= set(names)
    assert {"everyday_prompts", "everyday_answers", "everyday_rankings", "oasst_rankings"} <= set(names)
    for name in names:
        card, _ = cards._find(name)
        text = (cards.SHIPPED / f"{name}.md").read_text()
        assert card.licence in ("MIT", "Apache-2.0")
        if name.startswith("everyday"):
            assert "ritten for this project, with the help of a language model" in " ".join(text.split())
        if card.sensitive:
            assert "ffensive" in text
    assert "Human harm ratings turned into rankings" in (cards.SHIPPED / "pyrit_harm_rankings.md").read_text()
    assert cards.is_sensitive("pyrit_prompts")
    assert not cards.is_sensitive("everyday_prompts")
    assert not cards.is_sensitive("somebodys_file")


def test_everyday_views_hold_out_the_same_prompts() -> None:
    held_out = {}
    for name, expect in (("prompts", "prompts"), ("answers", "conversations"), ("rankings", "rankings")):
        rows = cards.load(f"everyday_{name}", expect, "test")  # type: ignore[arg-type]
        held_out[name] = {
            (row.prompt if isinstance(row, Ranking) else row.messages)[0].content for row in rows
        }
    assert held_out["prompts"] == held_out["answers"] == held_out["rankings"]
    assert len(held_out["prompts"]) >= 40
    train = cards.load("everyday_prompts", "prompts", "train")
    assert len(train) + len(held_out["prompts"]) >= 160
    assert not held_out["prompts"] & {row.messages[0].content for row in train}


def test_ratings_of_a_package_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "pyrit.whl"
    head = "# dataset_version=1.0,,\nharm_category,objective,assistant_response,human_score\n"
    rows = "".join(f"x,ask {i},fine {i},0.0\nx,ask {i},bad {i},{i % 2}\n" for i in range(50))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pyrit/datasets/scorer_evals/harm/x.csv", head + rows)
    monkeypatch.setattr(sources, "fetch_package", lambda *_: wheel)
    ranked = both("pyrit_harm_rankings", "rankings")
    assert len(ranked) == 25
    assert all(row.tiers == (0, 1) and row.ratings == (0.0, -1.0) for row in ranked)
    assert cards.load("pyrit_harm_rankings", "rankings", "train").dropped == {
        "prompts whose answers are rated alike": 25
    }
    assert len(both("pyrit_safe_answers", "conversations")) == 75
    assert len(both("pyrit_prompts")) == 50
    openings = {row.prompt[0].content for row in cards.load("pyrit_harm_rankings", "rankings", "test")}
    trained = {row.messages[0].content for row in cards.load("pyrit_safe_answers", "conversations", "train")}
    assert not openings & trained, "what one view holds out, another does not train on"


# --- one's own --------------------------------------------------------------------------------------


def test_a_card_of_ten_lines(folder: Path) -> None:
    assert len(CARD.splitlines()) == 10
    assert "mine" in cards.card_names()
    train, test = (cards.load("mine", "rankings", part) for part in ("train", "test"))  # type: ignore[arg-type]
    assert len(train) + len(test) == 40
    assert min(len(train), len(test)) >= 10
    assert (train.name, train.rows[0].source, train.dropped) == ("mine", "mine", {})
    assert all(row.tiers == (1, 0) for row in train)
    assert len(both("mine")) == 40, "rankings serve as prompts"
    other = write(
        folder / "other.jsonl",
        *({"question": f"o{i}", "replies": ["a", "b"], "stars": [1, 0]} for i in range(9)),
    )
    assert {row.prompt[0].content for row in both(DataRef(card="mine", path=str(other)), "rankings")} == {
        f"o{i}" for i in range(9)
    }


def test_a_file_needs_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "My Talks.v2.jsonl", *({"prompt": f"q{i}", "completion": "a"} for i in range(30)))
    rows = both(str(path), "conversations")
    assert len(rows) == 30
    assert {row.source for row in rows} == {"my_talks"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("")
    with pytest.raises(DataError, match="plain: of no known kind"):
        cards.load("plain", "prompts", "train")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("kind:", "knd:"), "knd: no such key; did you mean 'kind'?"),
        (
            ("kind: rankings", "kind: pairs"),
            "kind: input should be 'conversations', 'rankings', 'unpaired', 'stepwise' or 'prompts'",
        ),
        (
            ("reader: own", "reader: own\noptions: {frm: pairs}"),
            "options.frm: no such key; did you mean 'form'?",
        ),
        (("test: 0.5", "test: 1.5"), "split.test: input should be less than 1"),
        (("type: file", "type: web"), "source: input tag 'web' found using 'type' does not match"),
        (("licence: my own\n", ""), "licence: field required"),
        (("name: mine", "name: yours"), "is named 'yours' inside; give file and card one name"),
        (("name: mine", "name: [mine"), "the head is no YAML: while parsing a flow sequence"),
        (("---\nname", "name"), "has no head; open the file with --- and YAML, closed by ---"),
        (("reader: own", "reader: owm"), "no reader is called 'owm'; choose one of everyday, gsm8k, hh, "),
        (("licence: my own", "licence: a\nlicence: b"), "licence: stands twice; keep one"),
        (("licence: my own", "licence: 2020-13-45"), "the head is no YAML: month must be in 1..12; mend it"),
        (
            ("licence: my own", "? [licence]\n: a"),
            "the head is no YAML: while constructing a mapping",
        ),
        (
            ("licence: my own", f"licence: {'[' * 3000}{']' * 3000}"),
            "the head is nested too deeply; a card is flat",
        ),
    ],
)
def test_cards_that_are_none(change: tuple[str, str], line: str, folder: Path) -> None:
    (folder / "mine.md").write_text(CARD.replace(*change))
    with pytest.raises(DataError) as error:
        cards.load("mine", "rankings", "train")
    assert str(error.value).startswith(f"{folder / 'mine.md'}: {line}")
    assert "\n" not in str(error.value)


def test_a_card_that_is_not_utf8_or_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "mine.md"
    path.write_bytes(CARD.replace("my own", "caf\xe9").encode("latin-1"))
    with pytest.raises(DataError) as error:
        cards.load("mine", "rankings", "train")
    start = CARD.index("my own") + len("caf")
    assert str(error.value) == f"{path}: byte {start} is not UTF-8; save the file as UTF-8"

    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(DataError) as error:
        cards.load("mine", "rankings", "train")
    assert str(error.value) == f"{path}: cannot be read: Permission denied; check its permissions"


def test_a_card_holds_what_it_declares(folder: Path) -> None:
    (folder / "mine.md").write_text(CARD.replace("kind: rankings", "kind: prompts"))
    with pytest.raises(DataError) as error:
        cards.load("mine", "prompts", "train")
    assert str(error.value) == "card mine: holds rankings, not prompts; give the card that kind"


def test_a_folder_is_no_card(folder: Path) -> None:
    (folder / "talks.md").mkdir()
    assert "talks" not in cards.card_names()


def test_a_list_of_nothing_is_refused() -> None:
    with pytest.raises(DataError) as error:
        cards.load([], "prompts", "train")
    assert str(error.value) == "data: the list is empty; name a card or a file"


def test_rankings_that_contradict_each_other_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    other = {"prompt": "p", "chosen": "b", "rejected": "a"}
    path = write(tmp_path / "contrary.jsonl", pair, other)
    assert len(both(str(path), "rankings")) == 2, "they are kept"
    assert caplog.messages == [
        "contrary: rankings of one prompt contradict each other "
        "(prompts: 1, rows of the first: contrary/1, contrary/2); they are kept"
    ]


def test_labels_that_contradict_each_other_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "p", "completion": "a", "label": label} for label in (True, False, True)]
    path = write(tmp_path / "torn.jsonl", *rows, {"prompt": "p", "completion": "b", "label": True})
    with pytest.raises(DataError, match="1 of 4 rows are lost"):
        both(str(path), "unpaired")
    path = write(tmp_path / "torn.jsonl", *rows[:2], {"prompt": "p", "completion": "b", "label": True})
    assert len(both(str(path), "unpaired")) == 3, "they are kept"
    assert caplog.messages == [
        "torn: labels of one answer contradict each other "
        "(answers: 1, rows of the first: torn/1, torn/2); they are kept"
    ]


def test_unknown_names_get_the_nearest(folder: Path) -> None:
    with pytest.raises(DataError, match="data: no card is called 'mines'; did you mean 'mine'?"):
        cards.load("mines", "rankings", "train")
    with pytest.raises(
        DataError, match=r"no card is called 'x'; cards: everyday_answers, .*; or give a path"
    ):
        cards.load("x", "rankings", "train")
    (folder / "hh_rlhf.md").write_text(CARD)
    cards._find.cache_clear()
    with pytest.raises(DataError, match="card hh_rlhf: stands in .* rename one"):
        cards.load("hh_rlhf", "rankings", "train")


def test_the_card_in_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    card, row = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("markdown", "json"))
    assert card is not None
    assert row is not None
    (tmp_path / "my_ratings.md").write_text(card.group(1))
    rows = (row.group(1).replace("order?", f"order {i}?") for i in range(10))
    (tmp_path / "my_ratings.jsonl").write_text("".join(rows))
    monkeypatch.setattr(cards, "_folders", [*cards._folders, tmp_path])
    cards._find.cache_clear()
    assert [row.tiers for row in both("my_ratings", "rankings")] == [(0, 1, 1)] * 10


# --- parts, mixtures, limits ------------------------------------------------------------------------


def test_limit_and_repeat(tmp_path: Path) -> None:
    path = prompts(tmp_path, "p", *(f"prompt {i}" for i in range(100)))
    train, test = (cards.load(path, "prompts", part).rows for part in ("train", "test"))  # type: ignore[arg-type]
    assert (len(train) + len(test), len(test)) == (100, 14), "about a tenth, by hash"
    few = DataRef(path=path, limit=3, repeat=2)
    assert [row.id for row in cards.load(few, "prompts", "train")] == [
        *(row.id for row in train[:3]), *(f"{row.id}#2" for row in train[:3])
    ]  # fmt: skip
    assert cards.load(few, "prompts", "test").rows == test[:3], "held-out rows are not repeated"


def test_a_mixture_keeps_sources_and_ids_apart(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, two = prompts(tmp_path, "p", "a", "b", "c"), prompts(tmp_path / "x", "p", "d", "e", "f")
    other = prompts(tmp_path, "q", "g", "h")
    data = cards.load([one, DataRef(path=two), other], "prompts", "train")
    assert data.name == "p+q"
    assert len({row.id for row in data}) == len(data.rows)
    assert {row.source for row in data} == {"p", "q"}


def test_held_out_prompts_that_another_source_trains_on_are_refused(folder: Path) -> None:
    same = prompts(folder, "same", *(f"Q{i}" for i in range(40)))  # the card holds out a half, a file a tenth
    with pytest.raises(DataError) as error:
        cards.load(["mine", same], "prompts", "train")
    assert re.fullmatch(
        r"data mine\+same: \d+ prompts are trained on in one source and held out in another: 'q\d+'\.\.\.; "
        r"give the cards one split \(test and salt\), or leave a source out",
        str(error.value),
    )


def test_nothing_left_is_refused_where_rows_are_needed(tmp_path: Path) -> None:
    path = prompts(tmp_path, "one", "prompt 0")
    (part,) = (part for part in ("train", "test") if not cards_of(path, part))
    with pytest.raises(
        DataError, match="one: has no rows (to train on|held out); check the source, its size"
    ):
        cards.load(path, "prompts", part)  # type: ignore[arg-type]
    talk = write(tmp_path / "talk.jsonl", {"prompt": "prompt 0", "completion": "c"})
    assert len(both(str(talk), "conversations")) == 1, "held-out conversations may be none"


def cards_of(path: str, part: Any) -> list[Any]:
    try:
        return list(cards.load(path, "prompts", part))
    except DataError:
        return []


def test_max_drop_is_the_limit(tmp_path: Path) -> None:
    good = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(99)]
    path = write(tmp_path / "pairs.jsonl", *good, {"prompt": "p", "chosen": "a", "rejected": "a"})
    assert cards.load(str(path), "rankings", "train", max_drop=0.01).dropped == {"chosen equals rejected": 1}
    with pytest.raises(
        DataError, match=r"1 of 100 rows are lost .*, more than max_drop 0\.009 \(first: .*:100\)"
    ):
        cards.load(str(path), "rankings", "train", max_drop=0.009)


# --- identity ---------------------------------------------------------------------------------------


def test_identity_changes_with_content_card_and_use(folder: Path) -> None:
    one = cards.identity("mine")
    assert list(one) == ["mine"]
    assert cards.identity(["mine", DataRef(card="mine")]) == {"mine": one["mine"], "mine#2": one["mine"]}
    assert cards.identity(DataRef(card="mine", limit=3)) != one
    text = (folder / "mine.jsonl").read_text()
    (folder / "mine.jsonl").write_text(text.replace("q39", "q38"))
    assert cards.identity("mine") != one, "one byte"
    (folder / "mine.jsonl").write_text(text)
    assert cards.identity("mine") == one
    (folder / "mine.md").write_text(CARD.replace("Answers that", "Some answers that"))
    cards._find.cache_clear()
    assert cards.identity("mine") == one, "the text of a card is not the data"
    (folder / "mine.md").write_text(CARD.replace("0.5", "0.4"))
    cards._find.cache_clear()
    assert cards.identity("mine") != one


def test_identity_of_a_file_is_where_it_lies_not(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert cards.identity(prompts(tmp_path, "p", "a")) == cards.identity(prompts(tmp_path / "x", "p", "a"))


def test_all_sources_that_are_not_there_are_told(folder: Path) -> None:
    with pytest.raises(Problems) as caught:
        cards.identity(["mines", "mine", str(folder / "gone.jsonl")])
    assert [str(error) for error in caught.value.errors] == [
        "data: no card is called 'mines'; did you mean 'mine'?",
        f"{folder / 'gone.jsonl'}: no such file; check the path",
    ]


def test_a_text_file_is_one_row_and_is_trained_on_whatever_it_says(tmp_path: Path) -> None:
    for number in range(20):  # about two of them would be held out by their opening
        path = tmp_path / f"{number}.txt"
        path.write_text(f"Chapter {number}.\n\nOnce upon a time.")
        (row,) = cards.load(str(path), "conversations", "train")
        assert row.messages[0].content == f"Chapter {number}.\n\nOnce upon a time."
        assert not len(cards.load(str(path), "conversations", "test"))
