"""Data sets by name: cards, their sources and readers, the held-out part, and mixtures of several."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from align.config.stages import Data, DataRef
from align.data import sources
from align.data.card_types import Card, FileSource
from align.data.readers import READERS, Context
from align.data.types import Conversation, Dataset, Message, Prompt, Ranking
from align.errors import DataError
from align.registry import nearest

Expect = Literal["conversations", "rankings", "prompts"]
Part = Literal["train", "test"]
SHIPPED = Path(__file__).parents[1] / "data_cards"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".gz", ".zst")
_folders: list[Path] = [SHIPPED]


# --- cards -----------------------------------------------------------------------------------------------------------


def add_folder(path: Path) -> None:
    """Look for cards in a user's folder too."""
    if path.resolve() not in [folder.resolve() for folder in _folders]:
        _folders.append(path)
        _find.cache_clear()


def card_names() -> list[str]:
    """All cards, the user's among them."""
    return sorted({path.stem for folder in _folders for path in folder.glob("*.md")})


def is_sensitive(source: str) -> bool:
    """Whether the texts of a source should stay folded; False for a file without a card."""
    return source in card_names() and _find(source)[0].sensitive


@cache
def _find(name: str) -> tuple[Card, Path]:
    """A card and its folder.

    Raises:
        DataError: No such card, two of that name, or one that cannot be read.
    """
    paths = [path for folder in _folders for path in [folder / f"{name}.md"] if path.is_file()]
    if not paths:
        near = nearest(name, card_names())
        hint = f"did you mean {near!r}?" if near else f"cards: {', '.join(card_names())}; or give a path"
        raise DataError("data", f"no card is called {name!r}", hint)
    if len(paths) > 1:
        raise DataError(f"card {name}", f"stands in {paths[0].parent} and in {paths[1].parent}", "rename one")
    return _parse(paths[0]), paths[0].parent


def _parse(path: Path) -> Card:
    _, *parts = path.read_text(encoding="utf-8-sig").split("---\n", 2)
    if len(parts) != 2:
        raise DataError(str(path), "has no head", "open the file with --- and YAML, closed by ---")
    try:
        card = Card.model_validate(yaml.safe_load(parts[0]))
    except yaml.YAMLError as error:
        raise DataError(str(path), f"the head is no YAML: {' '.join(str(error).split())}", "mend it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(str(path), f"{place}: {first['msg'].lower()}", "see docs/data.md for the fields of a card") from None
    if card.name != path.stem:
        raise DataError(str(path), f"is named {card.name!r} inside", "give file and card one name")
    READERS.get(card.reader)
    return card


# --- references ------------------------------------------------------------------------------------------------------


def references(data: Data) -> list[DataRef]:
    """What a recipe's `data` names, each as a full reference."""
    return [_reference(item) for item in (data if isinstance(data, list) else [data])]


def _reference(item: str | DataRef) -> DataRef:
    if isinstance(item, DataRef):
        return item
    looks_like_a_path = "/" in item or item.endswith(SUFFIXES)
    return DataRef(path=item) if looks_like_a_path else DataRef(card=item)


def _resolve(ref: DataRef) -> tuple[Card, Path]:
    """The card of a reference; a file without one gets a card made on the spot."""
    if ref.card is not None:
        return _find(ref.card)
    assert ref.path is not None
    path = Path(ref.path)
    stem = path.name.split(".")[0].lower()
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in stem) or "data"
    card = Card(name=name, kind="conversations", source=FileSource(type="file", path=ref.path), reader="own", licence="")
    return card, path.parent


def identity(data: Data) -> dict[str, str]:
    """What the data *is*, without parsing a row: it changes when a byte of a source or a card's head changes.

    Returns:
        Name of each source -> a hash.
    """
    found = {}
    for number, ref in enumerate(references(data)):
        card, folder = _resolve(ref)
        head = card.model_dump() if ref.card else {}
        parts = [head, sources.identity(card, folder, ref.path), ref.limit, ref.repeat, ref.on_bad_row]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        found[card.name if card.name not in found else f"{card.name}#{number + 1}"] = digest
    return found


# --- rows ------------------------------------------------------------------------------------------------------------


def load(data: Data, expect: Expect, split: Part, *, max_drop: float = 0.01) -> Dataset[Any]:
    """Rows of one or several sources.

    Args:
        data: A card, a file, a reference, or a list of them.
        expect: The kind of rows that is wanted. Rankings and conversations serve as prompts too.
        split: Rows to learn from, or held-out rows.
        max_drop: Part of the rows that may be doubles before it is refused.

    Raises:
        DataError: A source or row that cannot be used, or no rows are left.
    """
    parts = [_load_one(ref, expect, split) for ref in references(data)]
    dropped: Counter[str] = Counter()
    for part in parts:
        dropped.update(part.dropped)
    rows = [row for part in parts for row in part.rows]
    name = "+".join(dict.fromkeys(part.name for part in parts))
    if not rows and split == "train":
        lost = ", ".join(f"{n} {why}" for why, n in dropped.items()) or "the source is empty"
        raise DataError(name, f"has no rows to train on ({lost})", "check the source and the split")
    return Dataset(name, rows, dict(dropped))


def _load_one(ref: DataRef, expect: Expect, split: Part) -> Dataset[Any]:
    card, folder = _resolve(ref)
    name = card.name
    rows, dropped = _read(name, card, folder, ref, card.kind)
    rows = [converted for row in rows for converted in [_convert(row, expect, name)] if converted is not None]
    rows = _unique(rows, dropped)
    rows = [row for row in rows if is_test(_prompt_text(row), card.split.test, card.split.salt) == (split == "test")]
    rows = rows[: ref.limit]
    if ref.repeat > 1 and split == "train":
        copies = range(1, ref.repeat + 1)
        rows = [replace(row, id=row.id if i == 1 else f"{row.id}#{i}") for i in copies for row in rows]
    return Dataset(name, rows, dict(dropped))


def _read(name: str, card: Card, folder: Path, ref: DataRef, kind: str) -> tuple[list[Any], Counter[str]]:
    context = Context(name, kind, dict(card.options), skip_bad=ref.on_bad_row == "skip")
    rows = list(READERS.get(card.reader)(sources.blobs(card, folder, ref.path), context))
    if not rows:
        lost = ", ".join(f"{n} {why}" for why, n in context.dropped.items())
        raise DataError(ref.path or f"card {name}", f"holds no rows{f' ({lost})' if lost else ''}", "check the file")
    return rows, context.dropped


def _convert(row: Any, expect: Expect, name: str) -> Any:
    """A row as the kind that is wanted.

    Raises:
        DataError: It cannot serve as that kind.
    """
    if expect == "prompts":
        if isinstance(row, Prompt):
            return row
        messages = row.prompt if isinstance(row, Ranking) else _until_answer(row.messages)
        return Prompt(row.id, messages, row.source) if messages else None
    wanted = Conversation if expect == "conversations" else Ranking
    if not isinstance(row, wanted):
        has = {Conversation: "conversations", Ranking: "rankings", Prompt: "prompts"}[type(row)]
        raise DataError(f"data {name}", f"holds {has}, not {expect}", f"name data of kind {expect}")
    return row


def _until_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    last = max(i for i, m in enumerate(messages) if m.role == "assistant")
    return tuple(messages[:last])


def _unique(rows: Iterable[Any], dropped: Counter[str]) -> list[Any]:
    """Each row once; ids once."""
    kept: list[Any] = []
    seen: set[Any] = set()
    ids: dict[str, str] = {}
    for row in rows:
        content = replace(row, id="")
        if content in seen:
            dropped["doubles of earlier rows"] += 1
            continue
        if row.id in ids:
            raise DataError(f"row {row.id}", "has the id of an earlier row", "give each row an id of its own")
        seen.add(content)
        ids[row.id] = ""
        kept.append(row)
    return kept


def _prompt_text(row: Conversation | Ranking | Prompt) -> str:
    messages = row.prompt if isinstance(row, Ranking) else row.messages
    if isinstance(row, Conversation):
        messages = _until_answer(messages) or messages
    return "\n".join(m.content for m in messages)


def is_test(prompt: str, part: float, salt: str) -> bool:
    """Whether a prompt is held out: a pure function of its text, so that no view of a source trains on it."""
    folded = " ".join(prompt.casefold().split())
    return int(hashlib.sha256(f"{salt}\x00{folded}".encode()).hexdigest(), 16) % 10_000 < part * 10_000


def leaks(train: Dataset[Any], test: Dataset[Any]) -> int:
    """Held-out rows whose prompt is trained on, which only a mixture of sources can have."""
    known = {" ".join(_prompt_text(row).casefold().split()) for row in train}
    return sum(" ".join(_prompt_text(row).casefold().split()) in known for row in test)
