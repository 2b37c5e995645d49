"""Curves and interval plots as inline SVG. matplotlib is imported with the first picture."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

from align.report.facts import Series
from align.report.numbers import Interval
from align.report.svg import CONTROL, GRID, INK, MUTED, SERIES, tidy
from align.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 3.4  # inches: a panel fits a phone, and three fit a desk
NOISY = 60  # from so many points on, single steps are drawn thin under their running mean
POINTS = 600  # a curve of more points is thinned to means, which no eye can tell apart at this size


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    label: str
    series: Series


@dataclass(frozen=True)
class Panel:
    """A small plot with a title that the page prints above it."""

    title: str
    curves: tuple[Curve, ...]
    across: str = "step"
    unit_range: bool = False


@dataclass(frozen=True)
class Bar:
    """One row of an interval plot; controls are drawn grey."""

    label: str
    interval: Interval
    text: str
    control: bool = False


@dataclass
class Gallery:
    """Draws pictures and gives each its own id prefix."""

    drawn: int = field(default=0)

    def curves(self, panel: Panel) -> str:
        """Lines over steps."""
        figure, axes = _figure(2.0)
        for curve, colour in zip(panel.curves, _colours(len(panel.curves)), strict=True):
            _line(axes, curve, colour)
        if panel.unit_range:
            axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(panel.across, labelpad=2)
        _few_ticks(axes, nbins=6, whole=True)
        if len(panel.curves) > 1:
            axes.legend(frameon=False, fontsize=7, labelcolor=INK, handlelength=1.2, borderaxespad=0.2)
        return self._svg(figure, f"{panel.title} over {panel.across}")

    def intervals(self, bars: Sequence[Bar], title: str, *, rate: bool, line_at: float | None = None) -> str:
        """Means with their 95 % intervals, one row each, the text of each beside it.

        Args:
            bars: The rows, from top to bottom.
            title: What the picture shows.
            rate: The numbers go from 0 to 1; the axis is in percent.
            line_at: Where to draw a dashed line.
        """
        figure, axes = _figure(0.42 + 0.27 * len(bars), width=4.3)
        for row, bar in enumerate(bars):
            colour = CONTROL if bar.control else SERIES[0]
            mean, low, high = bar.interval.mean, bar.interval.low, bar.interval.high
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
            axes.plot([mean], [row], "o", color=colour, markersize=5.5)
            axes.annotate(
                bar.text, (1.03, row), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=8
            )
        if line_at is not None:
            axes.axvline(line_at, color=MUTED, linewidth=0.8, dashes=(3, 3), zorder=0)
        axes.set_yticks(range(len(bars)), [_label(bar.label) for bar in bars])
        axes.set_ylim(len(bars) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.06)
        if rate:
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        return self._svg(figure, title)

    def calibration(self, bins: Sequence[tuple[float, float, float]]) -> str:
        """Predicted against observed share of pairs.

        Args:
            bins: (mean prediction, observed share, pairs) of each bin.
        """
        figure, axes = _figure(2.1, width=4.3)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, dashes=(3, 3))
        most = max(n for _, _, n in bins)
        sizes = [8 + 60 * n / most for _, _, n in bins]
        axes.plot([p for p, _, _ in bins], [o for _, o, _ in bins], color=SERIES[0], linewidth=1.2)
        axes.scatter([p for p, _, _ in bins], [o for _, o, _ in bins], s=sizes, color=SERIES[0])
        axes.set_xlabel("predicted", labelpad=2)
        axes.set_ylabel("observed", labelpad=2)
        return self._svg(figure, "Predicted against observed share of pairs")

    def path(self, paths: Sequence[tuple[str, Sequence[float], Sequence[float]]], title: str) -> str:
        """Reward over KL, one path each, from its first point (hollow) to its last (filled).

        Args:
            paths: (label, KL, reward).
            title: What it shows.
        """
        figure, axes = _figure(2.4)
        for (label, kl, reward), colour in zip(paths, _colours(len(paths)), strict=True):
            axes.plot(
                kl, reward, color=colour, linewidth=1.3, marker=".", markersize=3.5, label=_label(label)
            )
            axes.plot(kl[:1], reward[:1], "o", markersize=5.5, markerfacecolor="none", color=colour)
            axes.plot(kl[-1:], reward[-1:], "o", markersize=5.5, color=colour)
        axes.set_xlabel("KL to the reference, nats per answer", labelpad=2)
        axes.set_ylabel("reward", labelpad=2)
        axes.margins(0.08)
        _few_ticks(axes, nbins=5)
        if len(paths) > 1:
            axes.legend(frameon=False, fontsize=7, labelcolor=INK, handlelength=1.2)
        return self._svg(figure, title)

    def _svg(self, figure: Figure, label: str) -> str:
        import matplotlib

        buffer = io.StringIO()
        # Text stays text (it takes the page's font, so a glyph that matplotlib's lacks is no matter); equal
        # numbers give an equal picture.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "align"}), catch_warnings():
            simplefilter("ignore")
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        self.drawn += 1
        return tidy(buffer.getvalue(), f"p{self.drawn}", one_line(label))


def _label(text: str) -> str:
    """`text` as matplotlib prints it: safe, and a dollar is a dollar and no formula."""
    return one_line(text).replace("$", r"\$")


def _colours(count: int) -> list[str]:
    return [SERIES[i % len(SERIES)] for i in range(count)]


def _figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    # The first import on a machine says that it builds a font cache; that is no news of the run.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(colors=GRID, labelcolor=MUTED, labelsize=8, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=8)
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _few_ticks(axes: Axes, nbins: int, whole: bool = False) -> None:
    """Round ticks, as many as fit, with a common power of ten beside very small and very large ones."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=nbins, integer=whole, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(scilimits=(-3, 5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(color=MUTED, fontsize=8)


def _line(axes: Axes, curve: Curve, colour: str) -> None:
    steps, values = thinned(curve.series.steps), thinned(curve.series.values)
    label = _label(curve.label)
    style: dict[str, Any] = {"color": colour, "solid_capstyle": "round"}
    if len(values) < NOISY:
        marker = "o" if len(values) < 25 else ""
        axes.plot(steps, values, linewidth=1.5, marker=marker, markersize=3, label=label, **style)
        return
    axes.plot(steps, values, linewidth=0.6, alpha=0.35, **style)
    axes.plot(steps, running_mean(values, len(values) // 25), linewidth=1.7, label=label, **style)


def thinned(values: Sequence[float]) -> list[float]:
    """At most `POINTS` numbers: means of equally many neighbours (the last mean may hold fewer)."""
    width = -(-len(values) // POINTS)
    if width <= 1:
        return list(values)
    groups = [values[i : i + width] for i in range(0, len(values), width)]
    return [sum(group) / len(group) for group in groups]


def running_mean(values: Sequence[float], half: int) -> list[float]:
    """Mean over each value and its `half` neighbours on either side, fewer at the ends.

    Example:
        >>> running_mean([1.0, 2.0, 6.0], 1)
        [1.5, 3.0, 4.0]
    """
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
