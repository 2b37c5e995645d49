"""Bad data files, each with the one line that it gets, exit code 2, within two seconds."""
# ruff: noqa: E501 - a table

from __future__ import annotations

import gzip
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from align.config.base import DataRef
from align.data import cards
from align.errors import DataError

pytestmark = pytest.mark.fault
GOOD = '{"prompt": "p", "answers": ["a", "b"], "tiers": [0, 1]}\n'


def chat(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"


def ranking(**fields: Any) -> str:
    return json.dumps({"prompt": "p", "answers": ["a", "b", "c"], "tiers": [0, 1, 2]} | fields) + "\n"


@dataclass(frozen=True)
class Bad:
    """A file and the line it gets; `@` stands for its path."""

    name: str
    content: str | bytes
    line: str
    file: str = "bad.jsonl"


def table(rows: list[dict[str, Any]], compression: str = "none") -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, compression=compression)
    return out.getvalue()


TABLE = table([{"text": f"row {i} " + "x" * 50} for i in range(200)])
REPEATED = table([{"text": "x" * 2**20}] * 100, "zstd")
ROW = '{"prompt": "p", "completion": "c"}\n'
MEND = "mend the line, or on_bad_row: skip"
WEIGHT = "leave it out, or repeat the row; only conversations have one"
FORMS = (
    "messages; completion, prompt; completion, label, prompt; text; chosen, rejected; answers, prompt; answer, prompt, rating; "
    "completions, labels, prompt; prompt; or a card with fields:"
)

FILES = [
    # JSON that is none
    Bad("broken json", ROW + '{"prompt": "p" "completion": "c"}\n', f"@:2: column 16: Expecting ',' delimiter; {MEND}"),
    Bad(
        "cut off in a text",
        ROW + ROW + '{"prompt": "p", "compl',
        f"@:3: column 17: Unterminated string starting at; {MEND}",
    ),
    Bad(
        "cut off between fields",
        ROW + '{"prompt": "p",',
        f"@:2: column 16: Expecting property name enclosed in double quotes (the line is cut off); {MEND}",
    ),
    Bad("NUL bytes", ROW + "\0\0\0\n", f"@:2: column 1: Expecting value; {MEND}"),
    Bad("raw control character", '{"text": "a\x01b"}\n', f"@:1: column 12: Invalid control character at; {MEND}"),
    Bad("a row that is a list", '["p", "c"]\n', "@:1: is a list, not an object; give one JSON object per line"),
    Bad("a field twice", '{"text": "a", "text": "b"}\n', f"@:1: field 'text' stands twice; {MEND}"),
    Bad("nested 100,000 deep", "[" * 100_000, f"@:1: is nested too deeply; {MEND}"),
    Bad("an integer of 5,000 digits", '{"text": ' + "9" * 5000 + "}\n", f"@:1: holds an integer of too many digits; {MEND}"),
    # bytes that are no text
    Bad("not UTF-8", ROW.encode() + b'{"text": "caf\xe9"}\n', "@:2: byte 48 of the file is not UTF-8; save the file as UTF-8"),
    Bad("a lone surrogate", '{"text": "ab\\ud800"}\n', "@:1: field 'text' holds half a character (a lone surrogate) at character 3; remove it"),
    Bad("an escaped NUL", '{"text": "a\\u0000"}\n', "@:1: field 'text' holds the control character U+0000 at character 2; remove it"),
    # fields
    Bad("a missing field", ROW + '{"prompt": "p"}\n', "@:2: field 'completion' is missing; every row of this file has completion, prompt"),
    Bad("null", '{"prompt": "p", "completion": null}\n', "@:1: field 'completion' is null, not text; give a string"),
    Bad("empty", '{"prompt": "p", "completion": " \\n"}\n', "@:1: field 'completion' is empty; fill it or leave the row out"),
    Bad("a number for a text", '{"prompt": 7, "completion": "c"}\n', "@:1: field 'prompt' is a number, not a list of turns; give [{\"role\": ..., \"content\": ...}, ...]"),
    Bad("a misspelt field", '{"prompt": "p", "choosen": "a", "rejected": "b"}\n', "@:1: unknown field 'choosen'; did you mean 'chosen'?"),
    Bad("fields of no form", '{"question": "q"}\n', f"@:1: fields question fit no form; give one of: {FORMS}"),
    Bad("fields of two forms", '{"prompt": "p", "completion": "c", "messages": []}\n', "@:1: its fields fit the forms messages and completion; write a card with options: {form: messages}"),
    Bad("an id that is a fraction", '{"id": 1.5, "text": "a"}\n', "@:1: field 'id' is 1.5; give text or a whole number"),
    Bad("an id with an escape", '{"id": "a\\u001b[2J", "text": "a"}\n', "@:1: field 'id' holds the control character U+001B at character 2; remove it"),
    Bad("an id with half a character", '{"id": "a\\ud800", "text": "a"}\n', "@:1: field 'id' holds half a character (a lone surrogate) at character 2; remove it"),
    Bad("an id twice", '{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n', "row bad/x: has the id of an earlier row; give each row an id of its own"),
    # nothing to learn from
    Bad("an empty file", "", "@: holds no rows; check the file"),
    Bad("empty lines", "\n \n\n", "@: holds no rows; check the file"),
    Bad("chosen equals rejected", '{"prompt": "p", "chosen": "a", "rejected": " a"}\n', "@: holds no rows (1 chosen equals rejected); check the file"),
    Bad("too many pairs of equals", '{"prompt": "p", "chosen": "a", "rejected": "a"}\n' * 2 + '{"prompt": "p", "chosen": "a", "rejected": "b"}\n', "@: 2 of 3 rows are lost (2 chosen equals rejected), more than max_drop 0.01 (first: @:1, @:2); mend them or raise max_drop"),
    Bad("a row five times", ROW * 5, "@: 4 of 5 rows are lost (4 copies of earlier rows), more than max_drop 0.01 (first: row bad/2, row bad/3, row bad/4, row bad/5); mend them or raise max_drop"),
    # rankings
    Bad("one answer", ranking(answers=["a"], tiers=[0]), "@:1: field 'answers' holds fewer than two answers; a ranking needs two or more"),
    Bad("answers that are no list", ranking(answers="a"), "@:1: field 'answers' is text, not a list of texts; give a list of strings"),
    Bad("an empty answer", ranking(answers=["a", "", "c"]), "@:1: field 'answers[1]' is empty; fill it or leave the row out"),
    Bad("tiers for other answers", ranking(tiers=[0, 1]), "@:1: field 'tiers' has 2 numbers for 3 answers; give one number for each answer"),
    Bad("a gap", GOOD + ranking(tiers=[0, 1, 3]), "@:2: field 'tiers' [0, 1, 3] has a gap; count from 0 or 1 without leaving any out"),
    Bad("ranks from 2", ranking(tiers=[2, 3, 4]), "@:1: field 'tiers' [2, 3, 4] has a gap; count from 0 or 1 without leaving any out"),
    Bad("half a rank", ranking(tiers=[0, 0.5, 1]), "@:1: field 'tiers' holds a fraction; give whole numbers, 0 or 1 for the best"),
    Bad("two orders", ranking(ratings=[1, 2, 3]), "@:1: tiers and ratings stand together; give one of tiers, ranks, ratings"),
    Bad("no order", '{"prompt": "p", "answers": ["a", "b"]}\n', "@:1: the answers have no order; give one of tiers, ranks, ratings"),
    Bad("a NaN score", '{"prompt": "p", "answers": ["a", "b"], "ratings": [1, NaN]}\n', "@:1: field 'ratings[1]' is nan; give a finite number or leave the row out"),
    Bad("an infinite score", '{"prompt": "p", "answers": ["a", "b"], "ratings": [1, 1e999]}\n', "@:1: field 'ratings[1]' is inf; give a finite number or leave the row out"),
    Bad("a huge score", '{"prompt": "p", "answers": ["a", "b"], "ratings": [1, ' + "9" * 400 + "]}\n", "@:1: field 'ratings[1]' is an integer too large for a score; give a finite number or leave the row out"),
    Bad("a score that is text", '{"prompt": "p", "answers": ["a", "b"], "ratings": [1, "2"]}\n', "@:1: field 'ratings[1]' is text, not a number; give a number"),
    Bad("all answers tie", ranking(tiers=[0, 0, 0]), "@: holds no rows (1 all answers tie); check the file"),
    # turns
    Bad("an unknown role", chat(("human", "q"), ("assistant", "a")), "@:1: field 'messages[0].role' is 'human'; give system, user or assistant"),
    Bad("two user turns", chat(("user", "q"), ("user", "q"), ("assistant", "a")), "@:1: field 'messages[1]' is a second user turn in a row; join the two"),
    Bad("system in the middle", chat(("user", "q"), ("system", "s"), ("assistant", "a")), "@:1: field 'messages[1]' is a system turn behind others; put it first"),
    Bad("last turn not the assistant's", chat(("user", "q"), ("assistant", "a"), ("user", "q")), "@:1: field 'messages[2]' is the user's and the last turn; end with the assistant's"),
    Bad("the assistant opens", chat(("assistant", "a"), ("user", "q"), ("assistant", "a")), "@:1: field 'messages[0]' is an assistant turn before any user turn; put the user's turn first"),
    Bad("an empty conversation", '{"messages": []}\n', "@:1: field 'messages' is an empty conversation; add turns or leave the row out"),
    Bad("a turn that is text", '{"messages": ["q", "a"]}\n', "@:1: field 'messages[0]' is text, not a turn; give {\"role\": ..., \"content\": ...}"),
    Bad("a turn without content", '{"messages": [{"role": "user"}]}\n', "@:1: field 'messages[0].content' is null, not text; give a string"),
    Bad("an unknown key of a turn", '{"messages": [{"role": "user", "content": "q", "wieght": 0}]}\n', "@:1: field 'messages[0]' has an unknown key 'wieght'; a turn has role, content and weight"),
    Bad("a weight below 0", '{"messages": [{"role": "assistant", "content": "a", "weight": -1}]}\n', "@:1: field 'messages[0].weight' is -1; give 0 or more"),
    Bad("a weight of a row that is 0", '{"text": "a", "weight": 0}\n', "@:1: field 'weight' is 0; give more than 0, or leave the row out"),
    Bad("a weight of a row that is no number", '{"text": "a", "weight": "much"}\n', "@:1: field 'weight' is 'much', not a number; give a number"),
    Bad("a weight of a row that is not finite", '{"text": "a", "weight": NaN}\n', "@:1: field 'weight' is nan; give a finite number or leave the row out"),
    Bad("a weight of a ranking", ranking(weight=2), f"@:1: field 'weight' is not read in the form rankings; {WEIGHT}"),
    Bad("a weight of a pair", '{"prompt": "p", "chosen": "a", "rejected": "b", "weight": 2}\n', f"@:1: field 'weight' is not read in the form pairs; {WEIGHT}"),
    Bad("a rating in CSV that is a word", "prompt,answer,rating\np,a,4\np,b,four\n", "@: row 2: field 'rating' is 'four', not a number; give a number", "bad.csv"),
    Bad("no rating in CSV", "prompt,answer,rating\np,a,\n", "@: row 1: field 'rating' is empty; give a number", "bad.csv"),
    Bad("an infinite rating in CSV", "prompt,answer,rating\np,a,inf\n", "@: row 1: field 'rating' is inf; give a finite number or leave the row out", "bad.csv"),
    Bad("a weight of a label", '{"prompt": "p", "completion": "c", "label": true, "weight": 2}\n', f"@:1: field 'weight' is not read in the form unpaired; {WEIGHT}"),
    Bad("a weight of a rating", '{"prompt": "p", "answer": "a", "rating": 1, "weight": 2}\n', f"@:1: field 'weight' is not read in the form rating; {WEIGHT}"),
    Bad("a weight of steps", '{"prompt": "p", "completions": ["a"], "labels": [1], "weight": 2}\n', f"@:1: field 'weight' is not read in the form stepwise; {WEIGHT}"),
    # other files
    Bad("a text that is not UTF-8", b"a\xff", "@: byte 1 of the file is not UTF-8; save the file as UTF-8", "bad.txt"),
    Bad("200,000 empty lines", "\n" * 200_000, "@:100001: 100,000 empty lines in a row; remove them"),
    Bad("an unknown suffix", "a", "@: of no known kind; give a .jsonl, .json, .csv, .parquet or .txt file (.gz and .zst too)", "bad.doc"),
    Bad("a broken JSON array", '[{"text": "a"},\n {"text" "b"}]', "@:2: column 10: Expecting ':' delimiter; mend the JSON", "bad.json"),
    Bad("a JSON array that is cut off", '[{"text": "a"},\n {"text": "b"}', "@:2: column 15: Expecting ',' delimiter; mend the JSON", "bad.json"),
    Bad("a comma too many", '[{"text": "a"},]', "@:1: column 16: Expecting value; mend the JSON", "bad.json"),
    Bad("two JSON arrays", '[{"text": "a"}]\n[]', "@:1: column 16: Extra data; mend the JSON", "bad.json"),
    Bad("a JSON array of texts", '["a"]', "@: row 1: is text; give an object", "bad.json"),
    Bad("a CSV row too long", "prompt,completion\np,c\np,c,d\n", "@: row 2: has another number of fields than the head; mend the row", "bad.csv"),
    Bad("a CSV column twice", "prompt,completion,prompt\np,c,q\n", "@: column 'prompt' stands twice; rename or remove one", "bad.csv"),
    Bad("an open quote in CSV", 'prompt,completion\np,"c\n', "@: row 1: broken CSV: unexpected end of data; mend the quotes", "bad.csv"),
    Bad("CSV that is not UTF-8", b"prompt,completion\np,caf\xe9\n", "@:2: byte 23 of the file is not UTF-8; save the file as UTF-8", "bad.csv"),
    Bad("10,000 columns", ",".join(f"c{i}" for i in range(10_000)) + "\n", "@: has more than 1000 columns; give a table of texts", "bad.csv"),
    Bad("a value of 1 MB in 100 rows of Parquet", REPEATED, "@: row group 0: unfolds to more than 16 MB; cut it into several files", "bad.parquet"),
    Bad("no Parquet file", b"PAR1 is not enough", "@: no readable Parquet file: ", "bad.parquet"),
    Bad("a cut Parquet file", TABLE[:-100], "@: no readable Parquet file: ", "bad.parquet"),
    Bad("a Parquet footer that claims 2 GB", TABLE[:-8] + b"\xff\xff\xff\x7fPAR1", "@: no readable Parquet file: its footer claims 2047 MB; get another copy", "bad.parquet"),
    Bad("a corrupt Parquet page", TABLE[:4] + b"\xff" * 400 + TABLE[404:], "@: row group 0: cannot be read: ", "bad.parquet"),
    Bad("gz that is none", b"plain text", "@: cannot be read: Not a gzipped file (b'pl'); get another copy, or check its permissions", "bad.jsonl.gz"),
    Bad("gz cut off", gzip.compress(ROW.encode() + os.urandom(9000).hex().encode())[:3000], "@: cannot be read: Compressed file ended before the end-of-stream marker was reached; get another copy, or check its permissions", "bad.jsonl.gz"),
]  # fmt: skip


def load(path: Path, **options: Any) -> Any:
    return cards.load(DataRef(path=str(path), **options), "prompts", "train")


def told(call: Callable[[], Any]) -> str:
    """The error of a call: one line, exit code 2, in less than two seconds."""
    start = time.process_time()  # of the CPU: a busy machine is no failure
    with pytest.raises(DataError) as error:
        call()
    assert time.process_time() - start < 2
    line = str(error.value)
    assert "\n" not in line
    assert error.value.exit_code == 2
    return line


@pytest.mark.parametrize("bad", FILES, ids=lambda bad: bad.name)
def test_files(bad: Bad, tmp_path: Path) -> None:
    path = tmp_path / bad.file
    path.write_bytes(bad.content if isinstance(bad.content, bytes) else bad.content.encode())
    line = told(lambda: load(path)).replace(str(path), "@")
    if bad.line.endswith(": "):  # the rest is pyarrow's
        assert line.startswith(bad.line)
    else:
        assert line == bad.line


def missing(path: Path) -> None:
    """Nothing there."""


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (missing, "no such file; check the path"),
        (Path.mkdir, "is a folder; give a .jsonl, .json, .csv, .parquet or .txt file"),
        (loop, "too many levels of symbolic links; check the path"),
        (os.mkfifo, "is not a regular file; give a .jsonl, .json, .csv, .parquet or .txt file"),
    ],
)
def test_what_is_no_file(make: Callable[[Path], None], line: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    make(path)
    assert told(lambda: load(path)) == f"{path}: {line}"
    assert told(lambda: cards.identity(str(path))) == f"{path}: {line}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(GOOD)
    path.chmod(0)
    line = f"{path}: cannot be read: Permission denied; get another copy, or check its permissions"
    assert told(lambda: load(path)) == line


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "bad.jsonl"
    assert told(lambda: load(path)) == f"{path}: not a directory; check the path"


def test_a_path_with_a_nul() -> None:
    assert told(lambda: load(Path("a\0b.jsonl"))) == "'a\\x00b.jsonl': is no path; check the path"


def test_up_to_five_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n' + '{"text": 1}\n' * 7)
    with pytest.raises(Exception, match="is a number, not text") as error:
        load(path)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [
        f"{path}:{n}" for n in (2, 3, 4, 5, 6)
    ]
    assert error.value.exit_code == 2  # type: ignore[attr-defined]


def test_bad_rows_may_be_skipped_and_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "some.jsonl"
    good = "".join(json.dumps({"prompt": f"p{i}", "completion": "c"}) + "\n" for i in range(300))
    path.write_text(good + '{"prompt": "p", "compl\n{"prompt": "p", "completion": 3}\n')
    data = load(path, on_bad_row="skip")
    assert data.dropped == {"bad rows": 2}
    listed = tmp_path / "cache" / "rejects" / "some" / "rejects.jsonl"
    assert [json.loads(line) for line in listed.read_text().splitlines()] == [
        {
            "where": f"{path}:301",
            "reason": f"column 17: Unterminated string starting at; {MEND}",
            "row": '{"prompt": "p", "compl',
        },
        {
            "where": f"{path}:302",
            "reason": "field 'completion' is a number, not text; give a string",
            "row": {"prompt": "p", "completion": 3},
        },
    ]
    assert caplog.messages == [f"some: 2 bad rows were left out; they are listed in {listed}"]
    path.write_text(good + "{\n" * 10)
    assert "10 of 310 rows are lost (10 bad rows), more than max_drop 0.01" in told(
        lambda: load(path, on_bad_row="skip")
    )


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_a_line_without_end_is_stopped_at_the_limit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad.jsonl{suffix}"
    content = b'{"text": "' + b"x" * (64 << 20)
    if suffix == ".gz":
        content = gzip.compress(content, 1)
    if suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)
    assert told(lambda: load(path)) == f"{path}:1: a line of more than 16 MB; cut it into rows"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_bomb_is_stopped_at_the_limit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"bad.jsonl{suffix}"
    content = b"\n".join([b" " * 2**20] * 80)
    path.write_bytes(
        gzip.compress(content, 9) if suffix == ".gz" else pa.compress(content, "zstd", asbytes=True)
    )
    most = 16 + path.stat().st_size * 100 // 2**20
    assert told(lambda: load(path)) == f"{path}: unfolds to more than {most} MB; cut it into several files"


def test_an_array_that_is_too_large_is_stopped_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    with path.open("wb") as file:
        file.write(b"[\n")
        file.truncate(65 << 20)  # sparse: takes no disk
    line = f"{path}: more than 64 MB in one piece; save it as JSON lines or Parquet"
    assert told(lambda: load(path)) == line
