"""What the numbers of a run say in plain words, by rules that the report states beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from align.report.facts import RunFacts, StageFacts
from align.report.numbers import Interval, compact, finite, percent, points, read_interval, spell

Tone = Literal["good", "bad", "plain"]

MAX_REFUSAL_RISE = 0.10
MIN_EOS_RATE = 0.5
MAX_KL = 8.0
OPENINGS_KEPT = 0.5
RULES = (
    "A difference is called a gain or a loss when its paired 95 % interval lies wholly on one side of zero; "
    "otherwise no clear change is claimed.",
    "The second judge agrees when its own paired interval lies on the same side of zero.",
    "A control scores as high as a policy when its mean reward reaches the lower end of the policy's "
    "interval.",
    f"Refusals are warned about when they rise by more than {100 * MAX_REFUSAL_RISE:.0f} points on prompts "
    "that are not marked as sensitive.",
    "A reward model beats a baseline when the lower end of its accuracy lies above the baseline's accuracy.",
    f"Also warned about: fewer than {100 * MIN_EOS_RATE:.0f} % of the answers end by themselves; the "
    f"distinct openings fall below {OPENINGS_KEPT:g} of the baseline's; the KL to the reference passes "
    f"{MAX_KL:g} nats an answer.",
)


@dataclass(frozen=True)
class Finding:
    """One sentence and whether it is good news."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Comparison:
    """A policy, or a control, against the baseline on one source of held-out prompts.

    Differences are means over the same prompts, above 0 where `name` is higher; rates go from 0 to 1.
    """

    name: str
    baseline: str
    source: str
    sensitive: bool
    control: bool
    n: int
    reward: Interval | None
    judge: Interval | None
    wins: Interval | None
    refusals: Interval | None

    @property
    def where(self) -> str:
        """The prompts in words."""
        return f"{self.n} held-out prompts of {self.source}"


def table(value: object) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one: a part that a stage left out is no error."""
    return value if isinstance(value, Mapping) else {}


def comparisons(evaluation: StageFacts) -> list[Comparison]:
    """All comparisons of an evaluation; sensitive prompts, what was trained against, come first."""
    summary = evaluation.summary
    controls = summary.get("controls") or []
    found = []
    for source, numbers_of in table(summary.get("sources")).items():
        part = table(numbers_of)
        for name, numbers in table(part.get("versus")).items():
            found.append(
                Comparison(
                    name=name,
                    baseline=str(summary.get("baseline", "")),
                    source=source,
                    sensitive=bool(part.get("sensitive")),
                    control=name in controls,
                    n=int(part.get("n", 0)),
                    reward=read_interval(numbers.get("reward_difference")),
                    judge=read_interval(numbers.get("judge_difference")),
                    wins=read_interval(numbers.get("win_rate")),
                    refusals=read_interval(numbers.get("refusal_difference")),
                )
            )
    return sorted(found, key=lambda c: not c.sensitive)


def findings(run: RunFacts) -> list[Finding]:
    """The sentences of the verdict, the most important first."""
    found: list[Finding] = []
    for evaluation in run.of_kind("evaluate"):
        for comparison in comparisons(evaluation):
            if not comparison.control:
                found += _compared(comparison)
    for stage in run.stages:
        found += [finding for tell in TELLERS for finding in tell(stage)]
    return found


def cautions(run: RunFacts) -> list[str]:
    """What a reader must not miss, one sentence each."""
    found: list[str] = []
    for evaluation in run.of_kind("evaluate"):
        for comparison in comparisons(evaluation):
            if not comparison.control:
                found += _compared_warnings(evaluation, comparison)
    for reward in run.of_kind("reward"):
        found += _reward_warnings(reward)
    for stage in run.stages:
        found += _kl_warnings(stage)
    return found


def _compared(c: Comparison) -> list[Finding]:
    if c.reward is None:
        return []
    if c.reward.clearly_above_zero:
        head, tone = (
            f"{c.name} gains {spell(c.reward, sign=True)} reward over {c.baseline} on {c.where}",
            "good",
        )
    elif c.reward.clearly_below_zero:
        head, tone = (
            f"{c.name} loses reward against {c.baseline} on {c.where}: {spell(c.reward, sign=True)}",
            "bad",
        )
    else:
        head = f"{c.name} shows no clear change of reward against {c.baseline} on {c.where}: "
        head, tone = head + spell(c.reward, sign=True), "plain"
    parts = [head]
    if c.judge is not None:
        parts.append(f"{_judged(c.reward, c.judge)} ({spell(c.judge, sign=True)})")
    if c.refusals is not None:
        parts.append(f"refusals {points(c.refusals)}")
    return [Finding("; ".join(parts) + ".", tone)]  # type: ignore[arg-type]  # str literals above


def _judged(reward: Interval, judge: Interval) -> str:
    """What the second judge says to a change of reward."""
    if reward.clearly_above_zero or reward.clearly_below_zero:
        above, below = reward.clearly_above_zero, reward.clearly_below_zero
        agrees = (above and judge.clearly_above_zero) or (below and judge.clearly_below_zero)
        return "the second judge agrees" if agrees else "the second judge does not confirm it"
    if judge.clearly_above_zero:
        return "the second judge rates it higher"
    return "the second judge rates it lower" if judge.clearly_below_zero else "nor does the second judge"


def baselines(reward: StageFacts) -> dict[str, Interval]:
    """Name in words -> accuracy, of what a reward model is measured against."""
    found = {}
    for name, value in table(table(reward.summary.get("quality")).get("baselines")).items():
        accuracy = read_interval(value)
        if accuracy is not None:
            rule = table(value).get("rule")
            found[f"{name} ({rule})" if rule else name.replace("_", " ")] = accuracy
    return found


def accuracy_of(reward: StageFacts) -> Interval | None:
    """Held-out accuracy per prompt of a reward model."""
    return read_interval(table(reward.summary.get("quality")).get("accuracy"))


def _called(reward: StageFacts) -> str:
    return "the reward model" if reward.name == "reward" else f"the reward model {reward.name}"


def _stepped(stage: StageFacts) -> list[Finding]:
    found = table(table(stage.summary.get("quality")).get("steps"))
    accuracy, usual = read_interval(found.get("accuracy")), read_interval(found.get("usual_accuracy"))
    error, usual_error = read_interval(found.get("error")), read_interval(found.get("usual_error"))
    if accuracy is not None and usual is not None:
        text = f"judges {percent(accuracy)} of the steps of held-out answers as they were labelled"
        return [Finding(f"{_called(stage)} {text}; the more frequent label is right in {percent(usual)}.")]
    if error is not None and usual_error is not None:
        text = f"is {spell(error)} off the labels of the steps of held-out answers on average"
        return [Finding(f"{_called(stage)} {text}, the mean label {spell(usual_error)}.")]
    return []


def _rated(stage: StageFacts) -> list[Finding]:
    found = table(table(stage.summary.get("quality")).get("ratings"))
    error, usual = read_interval(found.get("error")), read_interval(found.get("usual_error"))
    if error is None or usual is None:
        return []
    text = (
        f"{_called(stage)} puts held-out answers {spell(error)} classes of their scale off on average, "
        f"the median class {spell(usual)}"
    )
    rank = finite(found.get("spearman"))
    return [Finding(f"{text}. Rank correlation {rank:.2f}." if rank is not None else f"{text}.")]


def _ordered(stage: StageFacts) -> list[Finding]:
    accuracy = accuracy_of(stage)
    if accuracy is None:
        return []
    n = "" if accuracy.n is None else f" of {accuracy.n} prompts"
    text = (
        f"{_called(stage)} orders held-out answers{n} as their rankings do: {percent(accuracy)} of the pairs"
    )
    others = [f"{name} {percent(value)}" for name, value in baselines(stage).items()]
    if others:
        text += f"; for comparison, {', '.join(others)}"
    return [Finding(text + ".")]


def _tuned(stage: StageFacts) -> list[Finding]:
    before = finite(table(stage.summary.get("before")).get("nll"))
    after = finite(table(stage.summary.get("after")).get("nll"))
    if before is None or after is None:
        return []
    n = finite(table(stage.summary.get("after")).get("n"))
    rows = "" if n is None else f" ({n:.0f} conversations)"
    verb = "falls" if after < before else "rises"
    text = f"{stage.name}: held-out loss{rows} {verb} from {before:.2f} to {after:.2f} nats per token."
    return [Finding(text, "plain" if after < before else "bad")]


def _preferred(stage: StageFacts) -> list[Finding]:
    held_out = table(stage.summary.get("held_out"))
    accuracy, n = finite(held_out.get("rewards/accuracies")), finite(held_out.get("n"))
    if accuracy is None or not n:
        return []
    rankings = stage.summary.get("reads") == "rankings"
    units = f"the pairs of {n:.0f} held-out rankings" if rankings else f"{n:.0f} held-out pairs"
    text = f"{stage.name} prefers the better answer in {100 * accuracy:.1f} % of {units}"
    margin, before = (finite(part.get("rewards/margins")) for part in (held_out, _before(stage)))
    if margin is None:
        return [Finding(f"{text}.")]
    start = "" if before is None else f" (before training {compact(before)})"
    grew = before is None or margin > before
    return [Finding(f"{text}, by a margin of {compact(margin)}{start}.", "plain" if grew else "bad")]


def _before(stage: StageFacts) -> Mapping[str, Any]:
    return table(stage.summary.get("before"))


def _labelled(stage: StageFacts) -> list[Finding]:
    held_out = table(stage.summary.get("held_out"))
    margin, n = finite(held_out.get("rewards/margins")), finite(held_out.get("n"))
    if margin is None or not n or "rewards/accuracies" in held_out:
        return []  # of pairs, their order is told
    more = f"{compact(abs(margin))} {'more' if margin > 0 else 'less'}"
    text = f"{stage.name} rewards the desirable of {n:.0f} held-out answers {more} than the undesirable"
    kl = finite(held_out.get("kl"))
    told = f"{text}, at a KL of {compact(kl)} nats." if kl is not None else f"{text}."
    return [Finding(told, "plain" if margin > 0 else "bad")]


# Each looks for its numbers in a stage's summary: what is told depends on what a stage measured, not on its
# kind, so that a new kind that measures the same is told the same.
TELLERS = (_ordered, _rated, _stepped, _tuned, _preferred, _labelled)


def _compared_warnings(evaluation: StageFacts, c: Comparison) -> list[str]:
    rows = table(table(table(evaluation.summary.get("sources")).get(c.source)).get("rows"))
    policy, baseline = table(rows.get(c.name)), table(rows.get(c.baseline))
    found = _control_warnings(c, rows, evaluation.summary.get("controls") or [])
    gained = c.reward is not None and c.reward.clearly_above_zero
    if gained and c.judge is not None and not c.judge.clearly_above_zero:
        judged = spell(c.judge, sign=True)
        found.append(f"on {c.source} the second judge does not confirm the gain of {c.name}: {judged}")
    if not c.sensitive and c.refusals is not None and c.refusals.mean > MAX_REFUSAL_RISE:
        found.append(f"{c.name} refuses more of {c.source} than {c.baseline}: {points(c.refusals)}")
    ended = finite(policy.get("eos_rate"))
    if ended is not None and ended < MIN_EOS_RATE:
        found.append(f"{100 * ended:.0f} % of the answers of {c.name} on {c.source} end by themselves")
    openings, before = finite(policy.get("distinct_openings")), finite(baseline.get("distinct_openings"))
    if openings is not None and before and openings < OPENINGS_KEPT * before:
        fall = f"distinct openings {compact(before)} -> {compact(openings)}"
        found.append(f"the answers of {c.name} on {c.source} begin alike: {fall}")
    return found


def _control_warnings(c: Comparison, rows: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    reward = read_interval(table(rows.get(c.name)).get("reward"))
    if reward is None:
        return []
    others = {name: read_interval(table(rows.get(name)).get("reward")) for name in controls}
    return [
        f"on {c.source} the {name} scores as high as {c.name}: reward {spell(other)} against {spell(reward)}"
        for name, other in others.items()
        if other is not None and other.mean >= reward.lowest
    ]


def _reward_warnings(reward: StageFacts) -> list[str]:
    accuracy = accuracy_of(reward)
    if accuracy is None:
        return []
    low = accuracy.low if accuracy.low is not None else accuracy.mean
    unbeaten = [
        f"{name} ({percent(value)})" for name, value in baselines(reward).items() if low <= value.mean
    ]
    if not unbeaten:
        return []
    return [f"{_called(reward)} does not clearly beat {' and '.join(unbeaten)}: accuracy {percent(accuracy)}"]


def _kl_warnings(stage: StageFacts) -> list[str]:
    kl = stage.metrics.get("objective/kl")
    for step, value in zip(kl.steps, kl.values, strict=True) if kl is not None else ():
        if value > MAX_KL:
            return [f"{stage.name}: KL passed {MAX_KL:g} nats an answer at iteration {step:.0f}"]
    return []
