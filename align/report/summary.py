"""The end of a run: the report page, and the lines that a person reads and copies from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from align.report.facts import RunFacts, StageFacts, read_run
from align.report.numbers import duration, percent, points, spell
from align.report.redact import redact
from align.report.terminal import make_console
from align.report.text import visible
from align.report.verdict import Comparison, accuracy_of, baselines, cautions, comparisons, findings

if TYPE_CHECKING:
    from align.artifacts.store import Artifact


def finish(
    run_folder: Path,
    recipe_name: str,
    artifacts: Mapping[str, Artifact],
    timings: Mapping[str, float | None],
    warnings: Sequence[str],
    peak_gb: float | None,
    *,
    command: str | None = None,
    console: Console | None = None,
) -> None:
    """Write `report.html` and print the end-of-run summary.

    A page that cannot be written is a warning: the artifacts are what counts, and they are safe.

    Args:
        run_folder: Folder of the run.
        recipe_name: Name of the recipe.
        artifacts: Stage -> artifact, in the order in which the stages ran.
        timings: Stage -> seconds; None where the artifact was reused.
        warnings: What the stages warned of.
        peak_gb: Peak memory in GB; None where unknown.
        command: The command that was given; default: the plain one for the recipe.
        console: Where to print; default: stdout.
    """
    console = console if console is not None else make_console("stdout")
    page = run_folder / "report.html"
    if all(timings.get(name) is None for name in artifacts) and page.exists():
        count = f"{len(artifacts)} stages" if len(artifacts) != 1 else "the stage"
        _print(console, f"{recipe_name}: {count} reused, nothing to do; report {page}")
        return
    run = read_run(run_folder, recipe_name, artifacts, timings)
    problems = [*warnings, *_written(page, run, warnings, peak_gb), *cautions(run), *run.unreadable]
    taken = "all stages reused" if run.seconds is None else f"done in {duration(run.seconds)}"
    _print(console, taken if peak_gb is None else f"{taken}, peak {peak_gb:.1f} GB", "bold")
    for line in figures(run):
        _print(console, line)
    for line in problems:
        _print(console, f"! {line}", "yellow")
    if page.exists():
        _print(console, f"report {page}")
    for line in next_commands(run, command or f"python -m align.run recipe={shlex.quote(recipe_name)}"):
        _print(console, line)


def _written(page: Path, run: RunFacts, said: Sequence[str], peak_gb: float | None) -> list[str]:
    """Write the page; return a warning where that failed."""
    from align.report.page import render, write

    try:
        write(page, render(run, said, peak_gb))
    except OSError as error:
        return [f"{page}: the report cannot be written ({error.strerror}); the artifacts are complete"]
    return []


def figures(run: RunFacts) -> list[str]:
    """The key figures, one line each."""
    lines = []
    for evaluation in run.of_kind("evaluate"):
        lines += [_versus(c) for c in comparisons(evaluation) if not c.control and c.reward is not None]
    for reward in run.of_kind("reward"):
        accuracy = accuracy_of(reward)
        if accuracy is not None:
            n = "" if accuracy.n is None else f", n {accuracy.n}"
            parts = [f"{reward.name} accuracy {percent(accuracy)}{n}"]
            lines.append(
                " | ".join(parts + [f"{name} {percent(value)}" for name, value in baselines(reward).items()])
            )
    if not lines:
        lines = [finding.text.rstrip(".") for finding in findings(run)]
    return lines


def _versus(c: Comparison) -> str:
    parts = [f"{c.name} over {c.baseline}, {c.source}, n {c.n}"]
    for name, value, words in (
        ("reward", c.reward, lambda v: spell(v, sign=True)),
        ("judge", c.judge, lambda v: spell(v, sign=True)),
        ("wins", c.wins, percent),
        ("refusals", c.refusals, points),
    ):
        if value is not None:
            parts.append(f"{name} {words(value)}")
    return f"{parts[0]}: {' | '.join(parts[1:])}"


def next_commands(run: RunFacts, command: str) -> list[str]:
    """What to do now: run again, export, use with transformers alone."""
    lines = [f"{command}   # again: finished stages are reused"]
    policies = [stage for stage in run.stages if stage.makes_policy]
    if policies:
        lines += [_export(policies[-1]), _snippet(policies[-1])]
    return [f"{'next' if i == 0 else '':7}{line}" for i, line in enumerate(lines)]


def _export(policy: StageFacts) -> str:
    artifact = shlex.quote(str(policy.folder))
    if _has_virtual_tokens(policy.folder):  # which no weights can hold
        return f"python -m align.run export={artifact} to=exported   # the adapter"
    return f"python -m align.run export={artifact} to=exported merge=true   # plain weights"


def _snippet(policy: StageFacts) -> str:
    # Double quotes only, so that the shell's single quotes around it stay readable.
    ask = '[{"role": "user", "content": "Hello"}]'
    imports, model = "from transformers import pipeline", "P"
    if _has_virtual_tokens(policy.folder):  # transformers alone opens adapters of weights only
        imports += "; from peft import AutoPeftModelForCausalLM as M"
        model = "M.from_pretrained(P)"
    # The tokenizer is named: of an adapter's folder transformers would take the base's, with its template.
    call = f'print(pipeline("text-generation", {model}, tokenizer=P)({ask})[0])'
    code = f"{imports}; P = {json.dumps(str(policy.folder))}; {call}"
    return f"python -c {shlex.quote(code)}   # needs transformers and peft only"


def _has_virtual_tokens(folder: Path) -> bool:
    """Whether an artifact is an adapter of prompt or prefix tuning."""
    config = folder / "adapter_config.json"
    return config.is_file() and "num_virtual_tokens" in json.loads(config.read_text())


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(visible(redact(text)), style=style), soft_wrap=True)
