"""Data sets by name: cards, their sources and readers, the held-out part, and mixtures of several."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from align.config.base import Data, DataRef
from align.data import sources
from align.data.card_types import Card, FileSource, Split
from align.data.packages import cache_folder
from align.data.readers import READERS, Context
from align.data.types import Dataset, Labelled
from align.data.views import (
    SINGLE,
    Expect,
    contradictions,
    is_test,
    once,
    opening,
    prompt_of,
    refuse_other_kind,
    view,
)
from align.errors import AlignError, ConfigError, DataError, collected, raise_all, warn_once
from align.registry import nearest

Part = Literal["train", "test"]
SHIPPED = Path(__file__).parents[1] / "data_cards"
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt", ".gz", ".zst")
_folders: list[Path] = [SHIPPED]
Model = TypeVar("Model", bound=BaseModel)


# --- cards ----------------------------------------------------------------------------------------------


def add_folder(path: Path) -> None:
    """Look for cards in a user's folder too."""
    if path.resolve() not in [folder.resolve() for folder in _folders]:
        _folders.append(path)
        _find.cache_clear()


def card_names() -> list[str]:
    """All cards, the user's among them."""
    return sorted({path.stem for folder in _folders for path in folder.glob("*.md") if path.is_file()})


def is_sensitive(source: str) -> bool:
    """Whether the texts of a source should stay folded; False for a file without a card."""
    return source in card_names() and _find(source)[0].sensitive


@cache
def _find(name: str) -> tuple[Card, Path]:
    """A card and its folder.

    Raises:
        DataError: No such card, two of that name, or one that cannot be read.
    """
    paths = [path for path in (folder / f"{name}.md" for folder in _folders) if path.is_file()]
    if not paths:
        near = nearest(name, card_names())
        hint = f"did you mean {near!r}?" if near else f"cards: {', '.join(card_names())}; or give a path"
        raise DataError("data", f"no card is called {name!r}", hint)
    if len(paths) > 1:
        raise DataError(f"card {name}", f"stands in {paths[0].parent} and in {paths[1].parent}", "rename one")
    return _parse(paths[0]), paths[0].parent


def _parse(path: Path) -> Card:
    card = _valid(path, Card, _head(path), "")
    if card.name != path.stem:
        raise DataError(str(path), f"is named {card.name!r} inside", "give file and card one name")
    try:
        options = READERS.get(card.reader).options
    except ConfigError as error:
        raise DataError(str(path), error.what, error.fix) from None
    _valid(path, options, card.options, "options.")
    return card


def _head(path: Path) -> Any:
    """What stands between the first two lines of ---.

    Raises:
        DataError: The file cannot be read, has no head, or a head that is no plain YAML.
    """
    try:
        before, *parts = path.read_text(encoding="utf-8-sig").split("---\n", 2)
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror}", "check its permissions") from None
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"byte {error.start} is not UTF-8", "save the file as UTF-8") from None
    if len(parts) != 2 or before.strip():
        raise DataError(str(path), "has no head", "open the file with --- and YAML, closed by ---")
    try:
        root = yaml.compose(parts[0], Loader=yaml.SafeLoader)
        twice = _twice(root)
        if twice:
            raise DataError(str(path), f"{twice[0]}: stands twice", "keep one")
        return yaml.safe_load(parts[0])
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        raise DataError(
            str(path), f"the head is no YAML: {' '.join(str(error).split())}", "mend it"
        ) from None
    except RecursionError:
        raise DataError(str(path), "the head is nested too deeply", "a card is flat") from None


def _twice(root: yaml.Node | None) -> list[str]:
    """Keys that stand twice at the top of a head; YAML itself would keep the last."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    counts = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
    return [key for key, count in counts.items() if count > 1]


def _valid(path: Path, kind: type[Model], value: Any, prefix: str) -> Model:
    """The value as its type.

    Raises:
        DataError: The first thing wrong with it, with the nearest key for an unknown one.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda found: found["type"] != "extra_forbidden"
        )  # a typo explains more
        place = prefix + ".".join(str(part) for part in first["loc"])
        fix = "see docs/data.md for the fields of a card"
        if first["type"] == "extra_forbidden":
            near = nearest(str(first["loc"][-1]), kind.model_fields)
            fix = f"did you mean {near!r}?" if near else fix
            raise DataError(str(path), f"{place}: no such key", fix) from None
        raise DataError(str(path), f"{place or 'head'}: {first['msg'].lower()}", fix) from None


# --- references -----------------------------------------------------------------------------------------


def references(data: Data) -> list[DataRef]:
    """What a recipe's `data` names, each as a full reference.

    Raises:
        DataError: It names nothing.
    """
    if data == []:
        raise DataError("data", "the list is empty", "name a card or a file")
    return [_reference(item) for item in (data if isinstance(data, list) else [data])]


def _reference(item: str | DataRef) -> DataRef:
    if isinstance(item, DataRef):
        return item
    is_path = "/" in item or item.endswith(SUFFIXES) or (item not in card_names() and Path(item).is_file())
    return DataRef(path=item) if is_path else DataRef(card=item)


def _resolve(ref: DataRef) -> tuple[Card, Path]:
    """The card of a reference; a file without one gets a card made on the spot."""
    if ref.card is not None:
        return _find(ref.card)
    assert ref.path is not None
    path = Path(ref.path)
    stem = ref.stage or path.name.split(".")[0].lower()
    name = "".join(c if c.isalnum() and c.isascii() else "_" for c in stem) or "data"
    card = Card(
        name=name,
        kind="conversations",
        source=FileSource(type="file", path=ref.path),
        reader="own",
        # Prompts of a stage are all of the training part of some card, whose split would hold none of them
        # out.
        split=Split(salt=f"stage {ref.stage}") if ref.stage else Split(),
        licence="",
    )
    return card, path.parent


def identity(data: Data) -> dict[str, str]:
    """What the data *is*, without parsing a row: it changes when a byte of a source or a card's head changes.

    Returns:
        Name of each source -> a hash.

    Raises:
        DataError: Sources that cannot be read, all of them together.
    """
    found: dict[str, str] = {}
    errors: list[AlignError] = []
    for number, ref in enumerate(references(data)):
        with collected(errors):
            card, folder = _resolve(ref)
            head = card.model_dump() if ref.card else {}
            parts = [head, sources.identity(card, folder, ref.path), ref.limit, ref.repeat, ref.on_bad_row]
            digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
            found[card.name if card.name not in found else f"{card.name}#{number + 1}"] = digest
    raise_all(errors)
    return found


def splits(data: Data) -> set[tuple[float, str]]:
    """How its sources hold rows out: part and salt of each."""
    found = (_resolve(ref)[0].split for ref in references(data))
    return {(split.test, split.salt) for split in found}


# --- rows -----------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """Rows of one reference in both parts, and what was left out of them."""

    name: str
    parts: dict[Part, list[Any]]
    left_out: Counter[str]


def load(data: Data, expect: Expect, split: Part, *, max_drop: float = 0.01) -> Dataset[Any]:
    """Rows of one or several sources.

    Args:
        data: A card, a file, a reference, or a list of them.
        expect: The kind of rows that is wanted. Everything serves as prompts, rankings also as unpaired.
        split: Rows to learn from, or held-out rows.
        max_drop: Part of a source's rows that may be faulty or copies before it is refused.

    Raises:
        DataError: A source or row that cannot be used, held-out prompts that are trained on, or no rows.
    """
    parts = [_load_one(ref, expect, max_drop) for ref in references(data)]
    name = "+".join(dict.fromkeys(part.name for part in parts))
    _refuse_leaks(parts, name)
    left_out: Counter[str] = sum((part.left_out for part in parts), Counter())
    rows = _with_own_ids([row for part in parts for row in part.parts[split]])
    if not rows and (split == "train" or expect == "prompts"):
        use = "to train on" if split == "train" else "held out"
        fix = "check the source, its size and the card's split"
        if expect == "rankings" and left_out[SINGLE]:
            fix = "a stage of kind reward learns from their ratings with loss=ordinal"
        raise DataError(name, f"has no rows {use}{_told(left_out)}", fix)
    return Dataset(name, rows, dict(left_out))


def openings(data: Data, split: Part) -> set[str]:
    """The folded first user turns of one part: equal for rows that are held out together.

    Raises:
        DataError: A source that cannot be read.
    """
    return {opening(row) for ref in references(data) for row in _load_one(ref, "prompts", 1.0).parts[split]}


def _load_one(ref: DataRef, expect: Expect, max_drop: float) -> _Source:
    card, folder = _resolve(ref)
    options = READERS.get(card.reader).options.model_validate(card.options)
    context = Context(card.name, card.kind, options, card.fields, skip_bad=ref.on_bad_row == "skip")
    rows = list(READERS.get(card.reader).read(sources.blobs(card, folder, ref.path), context))
    if context.rejects:
        _write_rejects(context)
    _refuse_losses(ref.path or f"card {card.name}", len(rows), context, max_drop)
    rows, copies = once(rows)
    context.dropped["copies of earlier rows"] += len(copies)
    context.examples = [f"row {name}" for name in copies[:5]] or context.examples
    _refuse_losses(ref.path or f"card {card.name}", len(rows), context, max_drop)
    if ref.card is not None:
        refuse_other_kind(rows, card.kind, f"card {card.name}", "give the card that kind")
    contrary = contradictions(rows)
    if contrary:
        labels = isinstance(rows[0], Labelled)
        what, unit = ("labels of one answer", "answers") if labels else ("rankings of one prompt", "prompts")
        warn_once(
            f"{card.name}: {what} contradict each other ({unit}: {len(contrary)}, "
            f"rows of the first: {', '.join(contrary[0][:5])}); they are kept"
        )
    alone = len(rows) == 1 and not prompt_of(rows[0])  # one plain text, on whose prompt nothing is measured
    part_held_out = 0.0 if alone else card.split.test
    rows = view(rows, expect, card.name, context.left_out)
    parts: dict[Part, list[Any]] = {"train": [], "test": []}
    for row in rows:
        held_out = is_test(opening(row), part_held_out, card.split.salt)
        parts["test" if held_out else "train"].append(row)
    parts = {part: found[: ref.limit] for part, found in parts.items()}
    parts["train"] = parts["train"] * ref.repeat
    return _Source(card.name, parts, +(context.dropped + context.left_out))


def _refuse_losses(where: str, kept: int, context: Context, max_drop: float) -> None:
    """Refuse a source of which nothing is left, or too much was lost."""
    lost = sum(context.dropped.values())
    if not kept:
        raise DataError(where, f"holds no rows{_told(context.dropped + context.left_out)}", "check the file")
    if lost > max_drop * (kept + lost):
        first = ", ".join(context.examples)
        what = (
            f"{lost} of {kept + lost} rows are lost{_told(context.dropped)}, more than max_drop {max_drop:g}"
        )
        raise DataError(where, f"{what} (first: {first})", "mend them or raise max_drop")


def _told(lost: Counter[str]) -> str:
    """` (3 bad rows, 1 copies of earlier rows)`, nothing where nothing was lost."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost.most_common() if count)
    return f" ({reasons})" if reasons else ""


def _refuse_leaks(parts: Sequence[_Source], name: str) -> None:
    """Held-out prompts that are trained on, which only a mixture of sources can have."""
    openings = {
        part: {opening(row) for source in parts for row in source.parts[part]} for part in ("train", "test")
    }
    both = sorted(openings["train"] & openings["test"])
    if both:
        raise DataError(
            f"data {name}",
            f"{len(both)} prompts are trained on in one source and held out in another: {both[0][:50]!r}...",
            "give the cards one split (test and salt), or leave a source out",
        )


def _with_own_ids(rows: Sequence[Any]) -> list[Any]:
    """Rows that stand several times, or come from two files of one name, under ids of their own."""
    seen: Counter[str] = Counter()
    named = []
    for row in rows:
        seen[row.id] += 1
        named.append(row if seen[row.id] == 1 else replace(row, id=f"{row.id}#{seen[row.id]}"))
    return named


def _write_rejects(context: Context) -> None:
    """List the bad rows that were left out, in the cache, since the source's folder may not be ours."""
    path = cache_folder() / "rejects" / context.name / "rejects.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = (json.dumps(asdict(reject), ensure_ascii=True) + "\n" for reject in context.rejects)
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, path)
    warn_once(f"{context.name}: {len(context.rejects)} bad rows were left out; they are listed in {path}")
