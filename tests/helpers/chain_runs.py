"""What the tests of runs share: where a run lies, what it made, and running it in a child process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from align.config.schema import Recipe
from align.pipeline.ingredients import run_key


def run_folder(recipe: Recipe) -> Path:
    return Path(recipe.runs) / f"rlhf-{run_key(recipe)[:8]}"


def results(recipe: Recipe) -> dict[str, bytes]:
    """Every file of every artifact of a run, manifests left out."""
    found = {}
    for link in sorted((run_folder(recipe) / "stages").iterdir()):
        for path in sorted(link.resolve().rglob("*")):
            if path.name != "manifest.json":
                found[f"{link.name}/{path.name}"] = path.read_bytes()
    return found


def fork(action: Callable[[], int]) -> int:
    """Run in a child process; returns its process number."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = action()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
