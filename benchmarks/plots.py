"""The results as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.outcome import Outcome
from benchmarks.table import MODELS

mpl.use("Agg")


def ratios(outcomes: Sequence[Outcome], path: Path) -> None:
    """Every ratio with its interval, on a logarithmic axis; the line at 1 is a draw."""
    shown = [(o.comparison, o.speed) for o in outcomes if o.speed is not None]
    if not shown:
        return
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for place, (_, speed) in enumerate(shown):
        axes.plot([speed.low, speed.high], [place, place], color="tab:blue", linewidth=2)
        axes.plot(speed.median, place, "o", color="tab:blue", markersize=5)
    names = [c.name.replace(c.model, MODELS.get(c.model, c.model), 1) for c, _ in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    low, high = 0.9 * min(1.0, *(s.low for _, s in shown)), 1.1 * max(1.0, *(s.high for _, s in shown))
    ticks = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xlim(low, high)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("times faster than the peer (median, 95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


def scaling(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds above, peak memory below, one column an axis."""
    names = list(dict.fromkeys(point["axis"] for point in points))
    if not names:
        return
    figure = Figure(figsize=(3.2 * len(names), 5.2), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        part = [point for point in points if point["axis"] == name]
        for row, (key, label) in enumerate((("seconds", "seconds"), ("peak_mb", "peak memory, MB"))):
            axes = grid[row][column]
            values = [point["value"] for point in part]
            axes.plot(values, [point[key] for point in part], "o-", color="tab:blue")
            axes.set_xscale("log", base=2)
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_ylim(0, 1.1 * max(point[key] for point in part))
            axes.grid(alpha=0.3)
            axes.set_xlabel(name)
            axes.set_ylabel(label if column == 0 else "")
    figure.savefig(path, dpi=120)
