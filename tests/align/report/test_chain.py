"""The picture of the chain."""

from __future__ import annotations

import re

import pytest

from align.report.chain import BOX_HEIGHT, BOX_WIDTH, Box, chain
from align.report.svg import PALETTE

BOXES = [
    Box("base", ("base model", "tiny"), ()),
    Box("sft", ("sft · 12", "3 s"), ("base",)),
    Box("reward", ("reward · 34", "4 s"), ("sft",)),
    Box("ppo", ("ppo · 56", "reused"), ("sft", "reward"), fresh=False),
]


def numbers(pattern: str, picture: str) -> list[list[float]]:
    return [[float(x) for x in found] for found in re.findall(pattern, picture)]


@pytest.mark.parametrize("upright", [False, True])
def test_an_arrow_for_every_input_and_all_inside(upright: bool) -> None:
    picture = chain(BOXES, upright=upright)
    assert picture.count('fill="none"') == 4  # base-sft, sft-reward, reward-ppo, sft-ppo
    assert len(re.findall(r"C[\d. -]+", picture)) == 1  # only sft-ppo has to go around a box
    width, height = numbers(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', picture)[0]
    for x, y in numbers(r'<rect x="([\d.]+)" y="([\d.]+)"', picture):
        assert 0 <= x <= width - BOX_WIDTH
        assert 0 <= y <= height - BOX_HEIGHT
    assert set(re.findall(r"#[0-9a-f]{6}", picture)) <= set(PALETTE)


def test_boxes_lie_in_a_row_or_stand_in_a_column() -> None:
    rects = r'<rect x="([\d.]+)" y="([\d.]+)"'
    lying, upright = numbers(rects, chain(BOXES)), numbers(rects, chain(BOXES, upright=True))
    assert len({y for _, y in lying}) == 1
    assert [x for x, _ in lying] == sorted({x for x, _ in lying})
    assert len({x for x, _ in upright}) == 1


def test_arrows_that_arrive_at_one_box_do_not_arrive_at_one_point() -> None:
    boxes = [*BOXES, Box("eval", ("e", ""), ("sft", "reward", "ppo"))]
    ends = re.findall(r"(?<=M)[\d.]+ [\d.]+L([\d.]+ [\d.]+)L", chain(boxes))
    assert len(ends) == len(set(ends)) == 7


def test_names_are_text_and_fit_their_box() -> None:
    picture = chain([Box("<script>", ("a" * 50, "&"), ())])
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture
    assert f">{'a' * 23}…<" in picture


def test_unknown_and_backward_inputs_draw_nothing() -> None:
    assert 'fill="none"' not in chain([Box("a", ("", ""), ("b", "z", "a")), Box("b", ("", ""), ())])
