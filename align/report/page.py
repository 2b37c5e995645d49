"""`report.html`: one page that needs nothing beside itself and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import align
from align.report.chain import Box, chain
from align.report.facts import RunFacts, StageFacts
from align.report.figures import Gallery
from align.report.numbers import Interval, compact, duration, finite, read_interval, spell
from align.report.redact import redact
from align.report.samples import sample_groups
from align.report.sections import TITLES, curves, evaluations, reward_over_kl, rewards
from align.report.svg import dark_rules
from align.report.text import visible
from align.report.verdict import RULES, cautions, findings, table

TEMPLATES = Path(__file__).parent / "templates"
SHORT_KEY = 12
MEASURES = {**TITLES, "nll": "Held-out loss, nats per token"}


def render(run: RunFacts, said: Sequence[str] = (), peak_gb: float | None = None) -> str:
    """The page as text.

    Args:
        run: What the run left on disk.
        said: Warnings that the stages gave while they ran.
        peak_gb: Peak memory of the run in GB.
    """
    gallery = Gallery()
    css = _css()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_safe,
    )
    environment.filters["unbroken"] = _unbroken
    environment.filters["svg"] = Markup  # our own pictures; nothing else is ever marked as safe
    return environment.get_template("report.html.j2").render(
        policy=content_policy(css),
        css=Markup(css),  # noqa: S704  (the project's own file)
        run=run,
        total="" if run.seconds is None else duration(run.seconds),
        peak="" if peak_gb is None else f"{peak_gb:.1f} GB",
        findings=findings(run),
        warnings=[*said, *cautions(run), *run.unreadable],
        rules=RULES,
        chains=[chain(_boxes(run), upright=upright) for upright in (False, True)],
        evaluations=evaluations(run, gallery),
        rewards=rewards(run, gallery),
        kl_pictures=reward_over_kl(run, gallery),
        curves=curves(run, gallery),
        groups=sample_groups(run),
        changes=before_and_after(run),
        stage_rows=[_stage_row(stage) for stage in run.stages],
        versions=_versions(run),
        align_version=align.__version__,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def write(path: Path, page: str) -> None:
    """Put the page at `path` in one step, so that a reader never sees half of it.

    Raises:
        OSError: The folder is gone or full.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".report-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(page)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def content_policy(css: str) -> str:
    """A content security policy: the page's one style sheet, no script, no request."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _css() -> str:
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return f"{css}@media (prefers-color-scheme: dark) {{\n{dark_rules()}\n}}\n"


def _safe(value: Any) -> Any:
    """Last step of every printed expression: no secret, no character that hides or reorders text."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(redact(value))


def _unbroken(text: str) -> str:
    """Keep an interval, and a number with its `%`, on one line."""
    return re.sub(r"\[[^\[\]]{1,40}\]|\d %", lambda match: match.group().replace(" ", "\u00a0"), text)


def _boxes(run: RunFacts) -> list[Box]:
    names = {stage.name for stage in run.stages}
    boxes = [Box("base", ("base model", run.base), (), fresh=False)] if run.stages else []
    for stage in run.stages:
        known = tuple(name for name in stage.inputs if name in names or name == "base")
        lines = (f"{stage.kind} · {stage.key[:SHORT_KEY]}", _time(stage))
        boxes.append(Box(stage.name, lines, known or ("base",), fresh=stage.seconds is not None))
    return boxes


def _time(stage: StageFacts) -> str:
    if stage.seconds is not None:
        return duration(stage.seconds)
    return "reused" if stage.first_seconds is None else f"reused (took {duration(stage.first_seconds)})"


def _stage_row(stage: StageFacts) -> dict[str, str]:
    dropped = [f"{count} {reason}" for reason, count in table(stage.summary.get("dropped")).items() if count]
    numbers = {name: finite(stage.summary.get(name)) for name in ("rows", "steps", "trainable_parameters")}
    return {
        "name": stage.name,
        "kind": stage.kind,
        "time": _time(stage),
        "key": stage.key,
        "folder": stage.folder.name,
        "dropped": ", ".join(dropped),
        **{name: "" if value is None else f"{value:,.0f}" for name, value in numbers.items()},
    }


def before_and_after(run: RunFacts) -> list[tuple[str, str, str, str]]:
    """(stage, measure, before, after) of everything that a stage measured twice."""
    rows = []
    for stage in run.stages:
        before, after = table(stage.summary.get("before")), table(stage.summary.get("after"))
        for name, value in before.items():
            pair = read_interval(value), read_interval(after.get(name))
            # How much was measured is no measurement.
            if pair[0] is not None and pair[1] is not None and name not in ("n", "tokens"):
                rows.append((stage.name, MEASURES.get(name, name), _short(pair[0]), _short(pair[1])))
    return rows


def _short(interval: Interval) -> str:
    return compact(interval.mean) if interval.low is None else spell(interval)


def _versions(run: RunFacts) -> list[tuple[str, str]]:
    """(package, version), with the stages named where they differ."""
    found: dict[str, dict[str, list[str]]] = {}
    for stage in run.stages:
        for package, version in stage.versions.items():
            found.setdefault(package, {}).setdefault(version, []).append(stage.name)
    rows = []
    for package, versions in sorted(found.items()):
        several = len(versions) > 1
        words = [
            f"{version} ({', '.join(stages)})" if several else version for version, stages in versions.items()
        ]
        rows.append((package, ", ".join(words)))
    return rows
