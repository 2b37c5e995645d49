"""What stands at the end of a run."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.report.facts import read_run
from align.report.summary import finish, next_commands

MakeRun = Callable[..., Any]
TIMINGS = {"sft": 172.3, "reward": 64.0, "ppo": 2883.7, "eval": None}
REUSED: dict[str, float | None] = dict.fromkeys(TIMINGS)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_the_summary_line_by_line(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    finish(run.folder, "rlhf", run.artifacts, TIMINGS, ["two prompts lost their middle"], 3.31)
    page, ppo = run.folder / "report.html", run.artifacts["ppo"].path
    assert lines_of(capsys) == [
        "done in 52 min, peak 3.3 GB",
        "ppo over sft, pyrit_prompts, n 78: reward +1.90 [1.20, 2.60] | judge +0.21 [0.11, 0.31] | "
        "wins 73.1 % [64.2, 81.1] | refusals +35.0 points [24.0, 46.0]",
        "ppo over sft, everyday_prompts, n 44: reward +0.20 [-0.10, 0.50] | judge +0.21 [0.11, 0.31] | "
        "wins 73.1 % [64.2, 81.1] | refusals +4.0 points [-2.0, 10.0]",
        "reward accuracy 81.3 % [72.4, 88.9], n 67 | length (shorter wins) 70.2 % [60.4, 79.3] | "
        "bag of words 79.1 % [68.8, 87.1]",
        "! two prompts lost their middle",
        "! on pyrit_prompts the constant refusal scores as high as ppo: "
        "reward 2.10 [2.00, 2.20] against 2.30 [1.90, 2.70]",
        "! the reward model does not clearly beat bag of words (79.1 % [68.8, 87.1]): "
        "accuracy 81.3 % [72.4, 88.9]",
        f"report {page}",
        "next   python -m align.run recipe=rlhf   # again: finished stages are reused",
        f"       python -m align.run export={ppo} to=exported merge=true   # plain weights",
        f'       python -c \'from transformers import pipeline; P = "{ppo}"; '
        'print(pipeline("text-generation", P, tokenizer=P)([{"role": "user", "content": "Hello"}])[0])\''
        "   # needs transformers and peft only",
    ]
    assert "<title>rlhf" in page.read_text()


def test_all_reused_is_one_line(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    finish(run.folder, "rlhf", run.artifacts, TIMINGS, [], None)
    page = run.folder / "report.html"
    before = page.read_bytes()
    capsys.readouterr()
    finish(run.folder, "rlhf", run.artifacts, REUSED, [], 0.4)
    assert lines_of(capsys) == [f"rlhf: 4 stages reused, nothing to do; report {page}"]
    assert page.read_bytes() == before


def test_all_reused_without_a_page_writes_one(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("sft")
    finish(run.folder, "sft", run.artifacts, REUSED, [], None)
    lines = lines_of(capsys)
    assert lines[:2] == [
        "all stages reused",
        "sft: held-out loss (41 conversations) falls from 2.63 to 2.30 nats per token",
    ]
    assert (run.folder / "report.html").exists()


def test_a_run_folder_that_is_gone_costs_the_page_only(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("sft")
    shutil.rmtree(run.folder)
    finish(run.folder, "sft", run.artifacts, {"sft": 1.0}, [], None)
    lines = lines_of(capsys)
    assert lines[0] == "done in 1 s"
    assert [line for line in lines if line.startswith("!")] == [
        f"! {run.folder}/report.html: the report cannot be written (No such file or directory); "
        "the artifacts are complete"
    ]
    assert not [line for line in lines if line.startswith("report ")]


def test_hostile_names_and_secrets_are_safe_on_the_screen(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("sft")
    finish(run.folder, "sft", run.artifacts, {"sft": 1.0}, ["[red]x[/red] \x1b[31m hf_abcdefgh12345"], None)
    assert "! [red]x[/red] \u241b[31m [redacted]" in lines_of(capsys)


def test_commands_can_be_pasted_whatever_the_folder_is_called(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("sft")
    odd = tmp_path / 'it\'s a "folder"'
    shutil.copytree(run.artifacts["sft"].path, odd)
    artifacts = {"sft": type(run.artifacts["sft"])(odd, run.artifacts["sft"].manifest)}
    lines = next_commands(read_run(run.folder, "sft", artifacts, {}), "align recipe=sft seed=1")
    again, export, snippet = (shlex.split(line, comments=True) for line in lines)
    assert again == ["next", "align", "recipe=sft", "seed=1"]
    assert export == ["python", "-m", "align.run", f"export={odd}", "to=exported", "merge=true"]
    assert snippet[:2] == ["python", "-c"]
    compile(snippet[2], "snippet", "exec")
    assert len(snippet) == 3


def test_without_a_policy_there_is_nothing_to_export(make_run: MakeRun) -> None:
    run = make_run("reward")
    assert len(next_commands(read_run(run.folder, "reward", run.artifacts, {}), "again")) == 1
