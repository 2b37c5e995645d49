"""The other end of a worker."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.rows import Row, to_json
from benchmarks.spec import Spec, Trace

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONUNBUFFERED": "1",
}


class Refused(Exception):
    """A side did not do what it was asked; the text says why."""


class Worker:
    """A process that holds one side.

    Args:
        python: The interpreter of the side's environment.
        threads: Of its arithmetic.
        log: What it prints is appended there.
    """

    def __init__(self, python: str, threads: int, log: Path) -> None:
        self.log = log
        self._errors = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.worker"],
            cwd=ROOT,
            env={**os.environ, **QUIET, **{name: str(threads) for name in THREADS}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def load(self, side: str, spec: Spec) -> dict[str, str]:
        """Open a side; returns the versions of its libraries.

        Raises:
            Refused: It cannot be opened.
        """
        versions: dict[str, str] = self._ask({"op": "load", "side": side, "spec": asdict(spec)})["versions"]
        return versions

    def run(self, rows: Sequence[Row]) -> Trace:
        """Train one pass.

        Raises:
            Refused: It failed.
        """
        return Trace(**self._ask({"op": "run", "rows": to_json(rows)}))

    def gemm(self) -> float:
        """FLOP/s of the machine now.

        Raises:
            Refused: It failed.
        """
        return float(self._ask({"op": "gemm"})["flops"])

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused(f"its process ended with code {self._process.wait()}; see {self.log.name}")
        answer: dict[str, Any] = json.loads(line)
        if "why" in answer:
            raise Refused(answer["why"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and self._process.poll() is None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
