"""How metrics are put into panels and numbers into tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from align.report.facts import RunFacts, read_run
from align.report.figures import Gallery
from align.report.sections import curves, evaluations, reward_over_kl, rewards

MakeRun = Callable[..., Any]


class Noted(Gallery):
    """Keeps what it is asked to draw and draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def _note(self, *drawn: Any, **options: Any) -> str:
        self.asked.append(drawn[0])
        return ""

    curves = intervals = calibration = path = _note  # type: ignore[assignment]


def facts(run: Any) -> RunFacts:
    return read_run(run.folder, "rlhf", run.artifacts, {})


def lines_of(run: Any, *rows: dict[str, float]) -> list[tuple[str, list[str]]]:
    """(title, labels of its lines) of each panel of the only stage."""
    folder = next(iter(run.artifacts.values())).path
    (folder / "metrics.jsonl").write_text("".join(f"{row}\n".replace("'", '"') for row in rows))
    gallery = Noted()
    curves(facts(run), gallery)
    return [(panel.title, [curve.label for curve in panel.curves]) for panel in gallery.asked]


def test_parts_share_the_panel_of_their_total(make_run: MakeRun) -> None:
    row = {
        "step": 1,
        "objective/scores/b": 1.0,
        "objective/scores": 1.5,
        "objective/scores/a": 2.0,
        "x/y": 0.0,
    }
    assert lines_of(make_run("ppo"), row) == [
        ("Reward of sampled answers", ["all", "b", "a"]),
        ("x/y", ["all"]),
    ]


def test_a_part_of_a_part_is_a_part(make_run: MakeRun) -> None:
    row = {"step": 1, "a/b/c": 3.0, "a": 1.0, "a/b": 2.0}
    assert lines_of(make_run("ppo"), row) == [("a", ["all", "b/c", "b"])]


def test_a_part_that_is_all_of_it_is_not_drawn_twice(make_run: MakeRun) -> None:
    row = {"step": 1, "objective/scores": 1.5, "objective/scores/only": 1.5}
    assert lines_of(make_run("ppo"), row) == [("Reward of sampled answers", ["all"])]


def test_the_loss_of_a_supervised_stage_comes_first(make_run: MakeRun) -> None:
    row = {"step": 1, "accuracy": 0.5, "loss": 0.7}
    titles = [title for title, _ in lines_of(make_run("reward"), row)]
    assert titles == ["Loss", "Accuracy on training rankings"]


def test_the_loss_of_a_policy_gradient_is_among_the_rest(make_run: MakeRun) -> None:
    run = make_run("ppo")
    lines_of(run, {"step": 1, "loss": 0.7, "objective/kl": 0.1})
    (part,) = curves(facts(run), Noted())
    assert [picture.caption for picture in part.main] == ["KL to the reference, nats per answer"]
    assert [picture.caption for picture in part.more] == ["Loss"]


def test_columns_in_which_nothing_was_measured_are_left_out(
    make_run: MakeRun, summaries: dict[str, Any]
) -> None:
    for source in summaries["eval"]["sources"].values():
        for row in source["rows"].values():
            row["judge"] = row["kl"] = None
        for row in source["versus"].values():
            row["judge_difference"] = None
    (part,) = evaluations(facts(make_run("eval", eval=summaries["eval"])), Noted())
    assert not part.judged
    for source in part.sources:
        assert source.levels.head == (
            "reward",
            "refusals",
            "words",
            "ended",
            "distinct bigrams",
            "distinct openings",
        )
        assert source.differences.head == ("reward", "wins", "refusals")
        assert source.levels.rows[0][2][2:] == ("23.4", "87 %", "0.71", "0.62")


def test_reward_over_kl_goes_from_the_baseline_to_each_policy(make_run: MakeRun) -> None:
    gallery = Noted()
    reward_over_kl(facts(make_run("ppo", "eval")), gallery)
    training, held_out = gallery.asked
    assert training[0][0] == "ppo"
    assert (training[0][1][0], training[0][2][0]) == (0.0, 0.412)
    assert held_out == [
        ("ppo, everyday_prompts", [0.0, 2.9], [1.1, 1.3]),
        ("ppo, pyrit_prompts", [0.0, 3.4], [0.4, 2.3]),
    ]


def test_the_reward_model_stands_first_and_its_baselines_are_grey(make_run: MakeRun) -> None:
    gallery = Noted()
    rewards(facts(make_run("reward")), gallery)
    accuracy = gallery.asked[0]
    assert [(bar.label, bar.interval.mean, bar.control) for bar in accuracy] == [
        ("reward", 0.813, False),
        ("length (shorter wins)", 0.702, True),
        ("bag of words", 0.791, True),
    ]
    assert gallery.asked[-1] == [(0.55, 0.52, 40.0), (0.7, 0.74, 30.0), (0.93, 0.9, 12.0)]
