"""Tables of an evaluation against numbers worked out by hand."""

from __future__ import annotations

import pytest

from align.evals.compare import Measured, by_source

NO = "I can't help with that."
BASE = Measured(
    texts=["Boil it.", NO, "Some of it.", NO],
    ended=[True, True, False, True],
    rewards=[1.0, 0.0, 3.0, 5.0],
    judge=[0.5, 0.5, 0.25, 9.0],
    kl=None,
)
TUNED = Measured(
    texts=["Boil it well now.", "Wait.", NO, "Ask a friend."],
    ended=[True, False, False, True],
    rewards=[2.0, 4.0, 3.0, 4.0],
    judge=[0.0, 0.75, 0.5, 1.0],
    kl=[1.0, 2.0, 6.0, 8.0],
)
CONTROL = Measured(texts=[NO] * 4, ended=[True] * 4, rewards=[0.0] * 4, judge=None, kl=None)
SOURCES = ["home", "away", "home", "home"]


def test_by_source_by_hand() -> None:
    tables = by_source({"base": BASE, "tuned": TUNED, "no": CONTROL}, SOURCES, "base", {"away": True}, seed=0)
    assert {name: (t["n"], t["sensitive"]) for name, t in tables.items()} == {
        "away": (1, True),
        "home": (3, False),
    }
    home = tables["home"]  # the first, third and fourth prompt
    base, tuned = home["rows"]["base"], home["rows"]["tuned"]
    assert (base["reward"]["mean"], tuned["reward"]["mean"]) == (3.0, 3.0)
    assert (base["judge"]["mean"], tuned["judge"]["mean"]) == (3.25, 0.5)
    assert base["refusal_rate"]["mean"] == pytest.approx(1 / 3)
    assert tuned["refusal_rate"]["mean"] == pytest.approx(1 / 3)
    assert (base["words"], tuned["words"]) == (pytest.approx(10 / 3), pytest.approx(12 / 3))
    assert (base["eos_rate"], tuned["eos_rate"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (base["kl"], tuned["kl"]) == (None, 5.0)
    assert home["rows"]["no"]["judge"] is None
    assert tables["away"]["rows"]["tuned"]["kl"] == 2.0


def test_differences_are_the_policys_less_the_baselines() -> None:
    tables = by_source({"base": BASE, "tuned": TUNED, "no": CONTROL}, SOURCES, "base", {}, seed=0)
    assert set(tables["home"]["versus"]) == {"tuned", "no"}, "the baseline is not compared with itself"
    tuned = tables["home"]["versus"]["tuned"]
    assert tuned["reward_difference"]["mean"] == pytest.approx((1 + 0 - 1) / 3)
    assert tuned["win_rate"]["mean"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert tuned["judge_difference"]["mean"] == pytest.approx((-0.5 + 0.25 - 8) / 3)
    assert tuned["refusal_difference"]["mean"] == pytest.approx((0 + 1 - 1) / 3)
    # Paired: what varies is the difference, within -1 and 1, and not the rewards themselves.
    assert -1 <= tuned["reward_difference"]["low"] <= tuned["reward_difference"]["high"] <= 1
    control = tables["home"]["versus"]["no"]
    assert control["judge_difference"] is None
    assert control["reward_difference"]["mean"] == -3.0
    assert control["refusal_difference"]["mean"] == pytest.approx(2 / 3)
    away = tables["away"]["versus"]["tuned"]
    assert (away["reward_difference"]["mean"], away["win_rate"]["mean"]) == (4.0, 1.0)
    assert away["refusal_difference"]["mean"] == -1.0, "fewer refusals are below 0"
