"""One side in a process of its own: JSON lines in, JSON lines out, one answer to each request.

    {"op": "load", "side": "trl", "spec": {...}}  opens libraries and checkpoint  {"versions": {...}}
    {"op": "run", "rows": [...]}                  trains one pass                 the fields of a `Trace`
    {"op": "gemm"}                                measures the machine            {"flops": ...}

An answer without what was asked for is {"why": "..."}. The process ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict
from time import perf_counter
from typing import Any

from benchmarks import memory
from benchmarks.rows import Row, from_json
from benchmarks.sides import Side, open_side
from benchmarks.spec import Spec, Trace


class Server:
    """Answers requests; holds the side that was loaded last.

    Args:
        opener: Opens a side by name.
    """

    def __init__(self, opener: Callable[[str, Spec], Side] = open_side) -> None:
        self.opener = opener
        self.side: Side | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request; what goes wrong is an answer too."""
        try:
            return self._answer(request)
        except Exception as error:  # a peer may fail in any way, and the others still run
            traceback.print_exc()
            return {"why": f"{type(error).__name__}: {_one_line(error)}"}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "load":
            self.side = None
            memory.give_back()
            self.side = self.opener(request["side"], Spec(**request["spec"]))
            return {"versions": self.side.versions()}
        if request["op"] == "run":
            if self.side is None:
                return {"why": "nothing is loaded"}
            return asdict(timed(self.side, from_json(request["rows"])))
        if request["op"] == "gemm":
            from benchmarks.gemm import peak

            return {"flops": peak()}
        return {"why": f"there is no op {request['op']!r}"}


def timed(side: Side, rows: list[Row]) -> Trace:
    """Train one pass and measure it."""
    side.prepare(rows)
    memory.give_back()
    fresh = memory.reset_peak()
    start = perf_counter()
    side.train()
    seconds = perf_counter() - start
    peak = memory.peak_mb()
    losses, norms = side.finish()
    memory.give_back()
    return Trace(seconds, losses, norms, peak, not fresh, getattr(side, "tokens", []))


def serve(lines: Iterable[str], write: Callable[[str], None], server: Server) -> None:
    """Answer each line."""
    for line in lines:
        if line.strip():
            write(json.dumps(server.answer(json.loads(line))) + "\n")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def main() -> None:
    """Serve standard input; whatever libraries print goes to standard error, so that answers stay alone."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def write(text: str) -> None:
        answers.write(text)
        answers.flush()

    serve(sys.stdin, write, Server())


if __name__ == "__main__":
    main()
