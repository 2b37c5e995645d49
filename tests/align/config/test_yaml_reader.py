"""The strict reader: values, lines and raw scalars."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.config.yaml_reader import Document, read, shown
from align.errors import ConfigError


def reading(tmp_path: Path, text: str) -> Document:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("5E3", 5000.0),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("2.", 2.0),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("0.10", 0.1),
        ("1_000", 1000),
        ("true", True),
        ("yes", True),
        ("~", None),
        ("2026-01-31", "2026-01-31"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("'010'", "010"),
        ("'no'", "no"),
        ("y", "y"),
    ],
)
def test_scalars(tmp_path: Path, written: str, value: object) -> None:
    document = reading(tmp_path, f"a: {written}\n")
    assert document.problems == []
    assert document.data == {"a": value}
    assert type(document.data["a"]) is type(value)


@pytest.mark.parametrize("written", ["010", "-017", "12:30", "1:20:30", "1:30.5"])
def test_numbers_of_other_bases_are_refused(tmp_path: Path, written: str) -> None:
    document = reading(tmp_path, f"b: 1\na: {written}\n")
    assert [problem.where for problem in document.problems] == [f"{tmp_path}/a.yaml:2"]
    assert document.data == {"b": 1}


def test_lines_and_raw_scalars(tmp_path: Path) -> None:
    document = reading(tmp_path, "# head\na:\n  b: no\n  c: ['x',\n    y]\n")
    assert document.lines == {("a",): 2, ("a", "b"): 3, ("a", "c"): 4, ("a", "c", "0"): 4, ("a", "c", "1"): 5}
    assert document.raw == {("a", "b"): "no", ("a", "c", "1"): "y"}  # 'x' is quoted, so it means what it says
    assert document.head.startswith("# head\n")


def test_merged_keys_yield_to_a_mapping_s_own(tmp_path: Path) -> None:
    document = reading(tmp_path, "a: &a {x: 1, y: 1}\nb: {y: 2, <<: *a}\n")
    assert document.problems == []
    assert document.data["b"] == {"x": 1, "y": 2}


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read: No such file or directory"):
        read(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read: Is a directory"):
        read(tmp_path / "a.yaml")


def test_files_are_shown_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(tmp_path / "a.yaml") == str(tmp_path / "a.yaml")
    monkeypatch.chdir(tmp_path)
    assert shown(tmp_path / "a.yaml") == "a.yaml"


@given(content=st.binary(max_size=200) | st.text("ab:{}[]&*!'\"-#|> \n\t${}01", max_size=80).map(str.encode))
def test_whatever_is_in_a_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.yaml"
    path.write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert isinstance(read(path).data, dict)
