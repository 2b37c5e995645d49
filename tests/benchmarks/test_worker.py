from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from align.config.schema import TinyModel
from align.models.policy import load_template
from align.models.sources import materialise
from benchmarks.client import Refused, Worker
from benchmarks.protocol import difference
from benchmarks.rows import Row, to_json
from benchmarks.sides import Side
from benchmarks.spec import Spec, Trace
from benchmarks.worker import Server, serve

ROW = Row("a", (1, 5), ((6, 2), (7, 8, 2)), ((1.0, 1.0), (1.0, 1.0, 1.0)), (0, 1))
SPEC = {"stage": "sft", "adapter": "full", "model": "m", "template": None, "pad": 0, "batch": 8}


class Fake:
    """A side that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self, rows: Sequence[Row]) -> None:
        self.asked.append(f"prepare {rows[0].id}")

    def train(self) -> None:
        self.asked.append("train")

    def finish(self) -> tuple[list[float], list[float]]:
        return [1.5], [2.5]

    def versions(self) -> dict[str, str]:
        return {"fake": "1"}


def test_each_line_has_one_answer() -> None:
    fake, answers = Fake(), []

    def opener(name: str, spec: Spec) -> Side:
        if name != "fake":
            raise ImportError(f"no {name}\nhere")
        assert spec.batch == 8
        return fake

    requests = [
        {"op": "run", "rows": []},
        {"op": "load", "side": "other", "spec": SPEC},
        {"op": "load", "side": "fake", "spec": SPEC},
        {"op": "run", "rows": to_json([ROW])},
        {"op": "sing"},
    ]
    serve([json.dumps(r) + "\n" for r in requests] + ["\n"], answers.append, Server(opener))
    none, other, loaded, ran, sing = map(json.loads, answers)
    assert none == {"why": "nothing is loaded"}
    assert other == {"why": "ImportError: no other here"}
    assert loaded == {"versions": {"fake": "1"}}
    assert (ran["losses"], ran["norms"]) == ([1.5], [2.5])
    assert ran["seconds"] >= 0
    assert ran["peak_mb"] > 10
    assert sing == {"why": "there is no op 'sing'"}
    assert fake.asked == ["prepare a", "train"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Folder and pad token of the tiny model."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
    folder = materialise(TinyModel(kind="tiny"))
    yield str(folder), load_template(folder, "chatml").pad_id
    patch.undo()


def rows(answers: int) -> list[Row]:
    """Four rows of uneven length."""
    texts = [((30 + n, 31, 2), (40, 41 + n, 42, 2)) for n in range(4)]
    weights = ((1.0,) * 3, (1.0,) * 4)
    tiers = (0, 1) if answers == 2 else ()
    return [
        Row(f"r{n}", (1, *range(10, 12 + n)), texts[n][:answers], weights[:answers], tiers) for n in range(4)
    ]


@pytest.mark.slow
def test_sides_agree_run_after_run(tiny: tuple[str, int], tmp_path: Path) -> None:
    """Every stage: the workers start, compute the same as one another, and the same again."""
    log = tmp_path / "log"
    with Worker(sys.executable, 1, log) as ours, Worker(sys.executable, 1, log) as peer:
        for stage, adapter, cached in [
            ("sft", "full", False),
            ("sft", "lora", False),
            ("reward", "full", False),
            ("reward", "lora", False),
            ("dpo", "full", False),
            ("dpo", "full", True),
            ("dpo", "lora", False),
        ]:
            spec = Spec(stage, adapter, tiny[0], "chatml", tiny[1], batch=2, cached=cached, micro=1)
            assert "align" in ours.load("align", spec)
            assert "trl" in peer.load("trl", spec)
            given = rows(1 if stage == "sft" else 2)
            first, again, other, repeated = (w.run(given) for w in (ours, ours, peer, peer))
            assert len(first.losses) == 2
            assert _numbers(first) == _numbers(again)
            assert _numbers(other) == _numbers(repeated)
            assert difference(first, other) is None, stage
            assert min(first.seconds, other.seconds) > 0
        assert ours.gemm() > 1e8


@pytest.mark.slow
def test_the_plain_trainer_agrees_too(tiny: tuple[str, int], tmp_path: Path) -> None:
    spec = Spec("sft", "lora", tiny[0], "chatml", tiny[1], batch=2, micro=2)
    with (
        Worker(sys.executable, 1, tmp_path / "log") as ours,
        Worker(sys.executable, 1, tmp_path / "log") as peer,
    ):
        ours.load("align", spec)
        peer.load("transformers", spec)
        assert difference(ours.run(rows(1)), peer.run(rows(1))) is None
        with pytest.raises(Refused, match="has no dpo"):
            peer.load("transformers", Spec("dpo", "full", tiny[0], "chatml", tiny[1], batch=2))


@pytest.mark.slow
def test_rollouts_are_the_same_tokens(tiny: tuple[str, int], tmp_path: Path) -> None:
    found = []
    for side, micro in (("align", 8), ("generate", 4), ("generate", 2)):
        spec = Spec(
            "rollout", "full", tiny[0], "chatml", tiny[1], batch=4, micro=micro, ends=(2, 7), longest=9
        )
        with Worker(sys.executable, 1, tmp_path / "log") as worker:
            worker.load(side, spec)
            found.append(worker.run(rows(1)))
    assert len(found[0].tokens) == 4
    assert all(1 <= len(answer) <= 9 for answer in found[0].tokens)
    assert difference(found[0], found[1]) is None
    assert difference(found[0], found[2]) is None


def _numbers(trace: Trace) -> tuple[list[float], list[float]]:
    assert all(map(math.isfinite, [*trace.losses, *trace.norms]))
    return trace.losses, trace.norms
