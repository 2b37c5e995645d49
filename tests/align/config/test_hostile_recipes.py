"""Recipe files made to cost time or memory: refused before they do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import align

AT = "my/recipe/mine.yaml"


def test_a_huge_file_is_refused_unread(folder: Path, command: Callable[..., Any]) -> None:
    path = folder / "my" / "recipe" / "mine.yaml"
    with path.open("wb") as file:
        file.truncate(300_000_000)  # sparse: no block is written
    assert command("recipe=mine", "--config-dir", "my").errors == [
        f"{AT}: 300,000,000 bytes; a recipe has at most 262,144: data has files of its own"
    ]


def test_bombs_cost_neither_time_nor_memory(folder: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    (folder / "my" / "recipe" / "mine.yaml").write_text(bomb)
    script = (
        "import resource, sys, time\n"
        "from align.run import main\n"
        "start = time.process_time()\n"
        "code = main(['recipe=mine', '--config-dir', 'my'])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "print(code, time.process_time() - start, peak)\n"
    )
    # by way of a small shell, so that the peak of this process is not taken for the child's
    words = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, script]
    environment = {**os.environ, "PYTHONPATH": str(Path(align.__file__).parent.parent)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    code, seconds, megabytes = done.stdout.split()
    assert code == "2"
    assert float(seconds) < 1
    assert int(megabytes) < 256
