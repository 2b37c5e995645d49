"""The recipe of prompt tuning on a tiny model, and a chain on top of what it leaves behind."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.artifacts.store import Store
from align.report.facts import StageFacts
from align.report.summary import _export, _snippet
from align.run import main

SMALL = [
    "model=tiny",
    "stages.sft.data={card: everyday_answers, limit: 32}",
    "stages.sft.lr=1e-1",
    "stages.sft.epochs=4",
    "stages.sft.max_answer=24",
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy of a finished `recipe=prompt_tuning`."""
    folder = tmp_path_factory.mktemp("prompt_tuning")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGN_CACHE", str(folder / "cache"))
        assert main(["recipe=prompt_tuning", *SMALL, f"runs={folder / 'runs'}"]) == 0
    (artifact,) = Store(folder / "runs" / "artifacts").all()
    return artifact.path


def test_it_learns_twenty_embeddings_and_nothing_else(policy: Path) -> None:
    told = json.loads((policy / "summary.json").read_text())
    assert told["after"]["nll"] < told["before"]["nll"] - 0.01
    tensors = load_file(policy / "adapter_model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {"prompt_embeddings": (20, 32)}
    assert told["trainable_parameters"] == 20 * 32


def test_plain_peft_opens_it(policy: Path) -> None:
    config = json.loads((policy / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    opened = PeftModel.from_pretrained(base, str(policy))
    want = load_file(policy / "adapter_model.safetensors")["prompt_embeddings"]
    assert (opened.get_prompt(1)[0] == want).all()


def test_the_lines_that_the_summary_prints(policy: Path, tmp_path: Path) -> None:
    facts = StageFacts("sft", "sft", "key", (), policy.resolve(), 1.0)
    assert "merge" not in _export(facts)
    python, flag, code = shlex.split(_snippet(facts), comments=True)
    assert (python, flag) == ("python", "-c")
    command = [sys.executable, flag, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "'role': 'assistant'" in done.stdout


@pytest.mark.parametrize("adapter", ["prompt_tuning", "prefix_tuning", "ia3"])
def test_the_whole_chain_runs_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], adapter: str
) -> None:
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "cache"))
    runs = f"runs={tmp_path / 'runs'}"
    assert main(["recipe=smoke", f"adapter={adapter}", runs]) == 0
    stages = {artifact.stage: artifact for artifact in Store(tmp_path / "runs" / "artifacts").all()}
    assert set(stages) == {"sft", "reward", "ppo", "eval"}
    shapes = [
        {n: t.shape for n, t in load_file(stages[s].path / "adapter_model.safetensors").items()}
        for s in ("sft", "ppo")
    ]
    assert shapes[0] == shapes[1]
    capsys.readouterr()
    done = main(["export=ppo", f"to={tmp_path / 'merged'}", "merge=true", runs])
    assert done == (0 if adapter == "ia3" else 2)
    assert ("no change of weights; export without merge=true" in capsys.readouterr().err) == bool(done)
    assert adapter == "ia3" or main(["export=ppo", f"to={tmp_path / 'copy'}", runs]) == 0
