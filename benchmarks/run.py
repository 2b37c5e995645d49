"""`make bench`: measure, then write JSON, a table and plots into benchmarks/results/."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks import plan, plots, scaling, table
from benchmarks.client import Refused, Worker
from benchmarks.data import Checkpoint
from benchmarks.flops import sampled, useful
from benchmarks.outcome import Outcome
from benchmarks.plan import Comparison
from benchmarks.protocol import OURS, NoRatio, Pair, measure, refuse_if_late
from benchmarks.rows import Row, batches
from benchmarks.spec import Spec, Trace

RESULTS = Path(__file__).parent / "results"
MINUTES, QUICK_MINUTES = 38.0, 4.5
SCALING_SHARE = 0.12  # of the time, kept for the scaling plots
LONGEST = 128  # tokens of an answer that is sampled
WARM_PROMPTS = 16  # of a rollout: two would take as many steps, and promise too long a run


class Bench:
    """Runs comparisons one after the other, with at most two processes alive.

    Args:
        threads: Of each side.
        python: Side -> its interpreter.
        log: Where the workers' own output goes.
    """

    def __init__(self, threads: int, python: Mapping[str, str], log: Path) -> None:
        self.threads, self.python, self.log = threads, python, log
        self.gemm: list[float] = []
        self.versions: dict[str, str] = {}
        self._ours: tuple[Spec, Worker] | None = None

    def compare(self, comparison: Comparison, seconds: float) -> Outcome:
        """One comparison, within so many seconds."""
        if seconds <= 0:
            return Outcome(comparison, why="no time was left")
        model = checkpoint(comparison.model)
        spec = _spec(comparison, model)
        rows = batches(
            _rows(comparison.model, comparison.data),
            comparison.rows,
            comparison.pairs,
            comparison.peer.grouped,
        )
        start = monotonic()
        try:
            with self._start(comparison.peer.side) as peer:
                ours = self._open_ours(spec)
                self.versions.update(peer.load(comparison.peer.side, spec))
                self.gemm.append(ours.gemm())
                pairs = self._pairs(ours, peer, rows, comparison, seconds - (monotonic() - start))
        except (Refused, NoRatio) as error:
            return Outcome(comparison, why=str(error))
        flops = [_useful(comparison, model, part, pair) for part, pair in zip(rows, pairs, strict=True)]
        return Outcome(comparison, pairs=pairs, useful=flops)

    def _pairs(
        self, ours: Worker, peer: Worker, rows: list[list[Row]], comparison: Comparison, seconds: float
    ) -> list[Pair]:
        few = rows[0][: WARM_PROMPTS if comparison.stage == "rollout" else 2 // comparison.units or 1]
        warm = sum(worker.run(few).seconds for worker in (ours, peer))  # the first run of a process is slower
        refuse_if_late(warm, len(few) / comparison.rows, comparison.pairs, seconds)
        workers = {OURS: ours}

        def run(side: str, number: int) -> Trace:
            return workers.get(side, peer).run(rows[number])

        return measure(run, comparison.pairs, seconds)

    def _open_ours(self, spec: Spec) -> Worker:
        """Our worker, the one of the last comparison where nothing about our side changed."""
        mine = Spec(
            spec.stage, spec.adapter, spec.model, spec.template, spec.pad, spec.batch, cached=spec.cached,
            ends=spec.ends, longest=spec.longest,
        )  # fmt: skip
        if self._ours is None or self._ours[0] != mine:
            self.close()
            worker = self._start("align")
            try:
                self.versions.update(worker.load("align", mine))
            except Refused:
                worker.close()
                raise
            self._ours = mine, worker
        return self._ours[1]

    def _start(self, side: str) -> Worker:
        return Worker(self.python.get(side, sys.executable), self.threads, self.log)

    def scale(self, *, quick: bool) -> list[dict[str, Any]]:
        """The scaling points."""
        self.close()
        with self._start("align") as worker:
            return scaling.measure(worker, checkpoint(plan.SMALL), quick=quick)

    def close(self) -> None:
        """End our worker."""
        if self._ours is not None:
            self._ours[1].close()
            self._ours = None


@cache
def checkpoint(name: str) -> Checkpoint:
    """A model, made once."""
    return Checkpoint(name)


@cache
def _rows(model: str, kind: str) -> list[Row]:
    return checkpoint(model).rows(kind)


def _useful(comparison: Comparison, model: Checkpoint, rows: Sequence[Row], pair: Pair) -> float:
    if comparison.stage == "rollout":
        return sampled(model.sizes, rows, pair.ours.tokens)
    reference = comparison.stage == "dpo" and not comparison.peer.cached
    return useful(comparison.stage, comparison.adapter, model.sizes, rows, reference=reference)


def _spec(comparison: Comparison, model: Checkpoint) -> Spec:
    peer = comparison.peer
    sampling = comparison.stage == "rollout"
    return Spec(
        comparison.stage, comparison.adapter, str(model.folder), model.template, model.pad, comparison.rows,
        pairs=comparison.units, cached=peer.cached, micro=peer.micro, checkpointing=peer.checkpointing,
        logging=peer.logging, ends=model.ends() if sampling else (), longest=LONGEST if sampling else 0,
    )  # fmt: skip


def absent(python: Mapping[str, str]) -> dict[str, str]:
    """Peers that take no part -> why."""
    found = {}
    for module, what in plan.ABSENT.items():
        there = module in python or importlib.util.find_spec(module) is not None
        why = "no side is written for it yet" if there else f"{module} is not installed"
        found[what] = f"not run: {why}"
    return found


def machine(threads: int) -> dict[str, str]:
    """What it runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    now = datetime.now().astimezone()
    return {
        "date": f"{now:%Y-%m-%d %H:%M}",
        "processor": names[0] if names else platform.machine(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }


def write(folder: Path, stem: str, found: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """JSON, table and plots."""
    folder.mkdir(parents=True, exist_ok=True)
    text = table.markdown(outcomes, found["absent"], found["machine"], found["gemm_peak"])
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    comparisons = [asdict(outcome) for outcome in outcomes]
    (folder / f"{stem}.json").write_text(json.dumps({**found, "comparisons": comparisons}, indent=1) + "\n")
    plots.ratios(outcomes, folder / f"{stem}-ratios.png")
    plots.scaling(found["scaling"], folder / f"{stem}-scaling.png")
    print(text)
    print(f"written: {folder / stem}.json, .md, -ratios.png, -scaling.png")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pairs, the small model, five minutes")
    parser.add_argument("--minutes", type=float, help="what does not fit is named in the table")
    parser.add_argument("--only", default="", help="comparisons whose name holds all of these words")
    parser.add_argument("--pairs", type=int, help="runs of each side")
    parser.add_argument("--threads", type=int, default=2, help="of each side (default 2)")
    parser.add_argument("--model", help="another model in place of the plan's, e.g. tiny")
    parser.add_argument("--no-scaling", action="store_true", help="leave the scaling plots out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--list", action="store_true", help="name the comparisons and run nothing")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="SIDE=PATH",
        help="interpreter of a peer's environment",
    )
    return parser.parse_args(arguments)


def chosen(args: argparse.Namespace) -> list[Comparison]:
    """The comparisons that the command line asks for."""
    found = plan.quick() if args.quick else plan.full()
    if args.model:
        found = list(dict.fromkeys(replace(c, model=args.model) for c in found))
    if args.pairs:
        found = [replace(c, pairs=args.pairs) for c in found]
    words = args.only.split()
    return [c for c in found if all(word in c.name for word in words)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 where nothing got a ratio, 2 where nothing was asked for."""
    args = options(arguments)
    comparisons = chosen(args)
    if args.list:
        print("\n".join(c.name for c in comparisons))
        return 0
    if not comparisons:
        print("--only: no comparison has all of these words; --list names them", file=sys.stderr)
        return 2
    start = monotonic()
    budget = 60 * (args.minutes or (QUICK_MINUTES if args.quick else MINUTES))
    kept = 0.0 if args.no_scaling else SCALING_SHARE * budget
    about = machine(args.threads)
    python = dict(item.split("=", 1) for item in args.python)
    with tempfile.NamedTemporaryFile(prefix="bench-", suffix=".log", delete=False) as log:
        bench = Bench(args.threads, python, Path(log.name))
    outcomes = []
    try:
        for number, comparison in enumerate(comparisons, 1):
            outcome = bench.compare(comparison, budget - kept - (monotonic() - start))
            outcomes.append(outcome)
            said = table.ratio(outcome.speed) if outcome.speed else outcome.why
            print(f"{number}/{len(comparisons)} {comparison.name}: {said}", file=sys.stderr, flush=True)
        points = [] if args.no_scaling else bench.scale(quick=args.quick)
    finally:
        bench.close()
    if any(outcome.why for outcome in outcomes):
        print(f"what the workers said: {log.name}", file=sys.stderr)
    found = {
        "machine": {**about, **bench.versions},
        "gemm_peak": max(bench.gemm, default=float("nan")),
        "gemm": bench.gemm,
        "absent": absent(python),
        "scaling": points,
        "seconds": monotonic() - start,
    }
    stem = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M") + ("-quick" if args.quick else "")
    write(args.out, stem, found, outcomes)
    return 0 if any(outcome.speed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
