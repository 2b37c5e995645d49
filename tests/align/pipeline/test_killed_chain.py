"""The whole chain on a tiny model, killed twenty times at random moments: bit for bit the undisturbed one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from align.artifacts.manifest import verify

pytestmark = [pytest.mark.slow, pytest.mark.fault]
KILLS = 20
ARGUMENTS = [
    "recipe=smoke",
    "hardware.threads=1",
    "stages.sft.epochs=12",
    "stages.sft.checkpoint_every=1",
    "stages.reward.epochs=8",
    "stages.reward.checkpoint_every=2",
    "stages.ppo.iterations=8",
]
# One process imports what is heavy and forks the runs, so that kills fall into the work, not into imports.
SCRIPT = """
import os, random, signal, sys, time
import torch
from align.run import main
from align.stages import evaluate, reward, rl, sft

torch.set_num_threads(1)

def start(runs):
    child = os.fork()
    if child == 0:
        try:
            os._exit(main([*sys.argv[4:], f"runs={runs}"]))
        finally:
            os._exit(99)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

whole, killed, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()
assert end(start(whole)) == 0
longest = 0.6 * (time.monotonic() - began)
moments, done, rounds = random.Random(3), 0, 0
while done < kills:
    child = start(f"{killed}-{rounds}")
    time.sleep(moments.uniform(0.1, 1) * longest)
    os.kill(child, signal.SIGKILL)
    code = end(child)
    assert code in (0, -9), code
    done += code == -9
    rounds += code == 0
assert end(start(f"{killed}-{rounds}")) == 0
print("rounds", rounds + 1)
"""


def results(runs: Path) -> dict[str, bytes]:
    """Every file of every artifact, manifests left out."""
    found = {}
    for folder in sorted((runs / "artifacts").iterdir()):
        verify(folder)
        files = (
            path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"
        )
        found.update({path.relative_to(runs).as_posix(): path.read_bytes() for path in files})
    return found


def test_killed_twenty_times(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "whole"), str(tmp_path / "killed"), str(KILLS)]
    run = subprocess.run([*command, *ARGUMENTS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    wanted = results(tmp_path / "whole")
    assert any(name.endswith(".safetensors") for name in wanted)
    assert any(name.endswith("metrics.jsonl") for name in wanted)
    rounds = sorted(tmp_path.glob("killed-*"))
    logs = "".join(path.read_text() for runs in rounds for path in runs.glob("smoke-*/log.txt"))
    resumed = re.findall(r"\[\d/4\] (\w+) resumes at step", logs)
    assert len(resumed) >= 3, "kills that fall into no stage prove nothing"
    assert len(set(resumed)) >= 2
    for runs in rounds:
        found = results(runs)
        assert list(found) == list(wanted)
        assert [name for name in wanted if found[name] != wanted[name]] == []
