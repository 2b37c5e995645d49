"""Pictures obey the page's policy and show the numbers the right way up."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from align.report.facts import Series
from align.report.figures import POINTS, Bar, Curve, Gallery, Panel, running_mean, thinned
from align.report.numbers import Interval
from align.report.svg import PALETTE, SERIES, dark_rules


def panel(*values: list[float], **options: bool) -> Panel:
    curves = tuple(
        Curve(f"c{i}", Series([float(s + 1) for s in range(len(v))], v)) for i, v in enumerate(values)
    )
    return Panel("Loss", curves, **options)  # type: ignore[arg-type]


def pictures() -> list[str]:
    gallery = Gallery()
    bars = [Bar("ppo", Interval(2.3, 1.9, 2.7), "2.30"), Bar("control", Interval(0.1), "0.10", control=True)]
    return [
        gallery.curves(panel([1.0, 2.0, 3.0])),
        gallery.curves(panel([float(i % 7) for i in range(3000)], [0.5] * 3000)),
        gallery.intervals(bars, "Reward", rate=False),
        gallery.intervals(bars, "Refusals", rate=True, line_at=0.5),
        gallery.calibration([(0.6, 0.5, 10.0), (0.9, 0.95, 3.0)]),
        gallery.path([("a", [0.0, 1.0], [0.0, 2.0]), ("b", [0.0, 1.0], [1.0, 2.0])], "Reward over KL"),
    ]


@pytest.fixture(scope="module")
def drawn() -> list[str]:
    return pictures()


def test_no_style_no_script_no_address(drawn: list[str]) -> None:
    for picture in drawn:
        tags = {element.tag for element in ElementTree.fromstring(picture).iter()}
        assert not tags & {"style", "script", "metadata", "image", "foreignObject"}
        assert not re.search(r"\sstyle=|\son\w+=|https?:|xlink", picture)


def test_references_resolve_and_no_id_is_used_twice(drawn: list[str]) -> None:
    everything = "".join(drawn)
    ids = re.findall(r'\sid="([^"]+)"', everything)
    used = re.findall(r"url\(#([^)]+)\)", everything) + re.findall(r'href="#([^"]+)"', everything)
    assert len(ids) == len(set(ids))
    assert set(used) == set(ids)


def test_every_colour_has_a_dark_counterpart(drawn: list[str]) -> None:
    used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]+)"', "".join(drawn)))
    assert used <= set(PALETTE)
    assert f'.plot [stroke="{SERIES[0]}"] {{ stroke: {PALETTE[SERIES[0]]}; }}' in dark_rules()


def test_text_keeps_its_size_and_takes_the_pages_font(drawn: list[str]) -> None:
    for picture in drawn:
        texts = ElementTree.fromstring(picture).findall(".//text")
        assert texts
        assert all(
            text.get("font-size") in ("7px", "8px") and text.get("font-family") is None for text in texts
        )


@pytest.mark.parametrize("label", ["$x^2$", "a_$5_and_$6", "<b>&", "世界", "\x1b[31m\x00", "half \ud83d"])
def test_labels_are_text_only(label: str) -> None:
    picture = Gallery().path([(label, [0.0, 1.0], [0.0, 1.0]), ("b", [0.0, 1.0], [0.0, 1.0])], label)
    root = ElementTree.fromstring(picture)
    expected = label.translate({0x1B: "\u241b", 0: "\u2400", 0xD83D: "<U+D83D>"})
    assert root.get("aria-label") == expected
    assert expected in [text.text for text in root.iter("text")]


def test_equal_numbers_give_an_equal_picture(drawn: list[str]) -> None:
    assert pictures() == drawn


def line_points(picture: str) -> list[tuple[float, float]]:
    """Points of the first curve: the first path in the first series' colour."""
    path = next(p for p in ElementTree.fromstring(picture).iter("path") if p.get("stroke") == SERIES[0])
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.get("d", ""))]


def test_a_rising_curve_rises_from_left_to_right() -> None:
    points = line_points(Gallery().curves(panel([1.0, 2.0, 3.0])))
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)  # SVG counts downwards
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], rel=1e-4)


def test_an_interval_is_drawn_from_its_low_to_its_high_end_around_its_mean() -> None:
    picture = Gallery().intervals([Bar("a", Interval(2.0, 1.0, 5.0), "")], "x", rate=False)
    (low, _), (high, _) = line_points(picture)
    marker = next(u for u in ElementTree.fromstring(picture).iter("use") if u.get("fill") == SERIES[0])
    mean = float(marker.get("x", "nan"))
    assert (mean - low) / (high - low) == pytest.approx(0.25, abs=1e-4)


def test_thinned_takes_means_of_neighbours() -> None:
    assert thinned([1.0, 2.0]) == [1.0, 2.0]
    values = [float(i) for i in range(2 * POINTS)]
    assert thinned(values)[:2] == [0.5, 2.5]
    assert len(thinned(values)) == POINTS
    # 1201 values: 400 groups of three and the last value alone.
    assert thinned([*values, 7.0])[::400] == [1.0, 7.0]


def test_running_mean_is_centred_and_shorter_at_the_ends() -> None:
    assert running_mean([0.0, 3.0, 6.0, 3.0], 1) == [1.5, 3.0, 4.0, 4.5]
