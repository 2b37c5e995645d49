"""Signs that a reward is being exploited: it rises while what it stands for does not.

Over-optimisation of a learned reward is described in arXiv:2210.10760. Nothing here sees the true reward;
each sign is something that tends to go wrong first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.config.rl_options import AlarmOptions

LAST = 3  # rounds whose mean is compared with the first round
BUT = "the reward rises, but"
RISE = 0.5  # stds of the first round's scores that the reward must have risen by
Row = Mapping[str, float]


def signs(rounds: Sequence[Row], limits: AlarmOptions) -> list[str]:
    """What speaks against a rise of the reward, one sentence each; none where it did not rise.

    Args:
        rounds: Metrics of the rounds so far, the first of them before any update.
        limits: How far each measure may move.
    """
    found: list[str] = []
    if len(rounds) < 2:
        return found
    first, now = rounds[0], _mean(rounds[max(1, len(rounds) - LAST) :])
    if limits.kl is not None and now.get("objective/kl", 0.0) > limits.kl:
        found.append(f"KL is {now['objective/kl']:.3g} nats per answer, above {limits.kl:g}")
    if now["objective/scores"] - first["objective/scores"] <= RISE * first["objective/scores_std"]:
        return found
    before, after = first["response/length"], now["response/length"]
    if after > limits.length * before or after * limits.length < before:
        found.append(f"{BUT} answers went from {before:.1f} to {after:.1f} tokens")
    before, after = first["response/distinct"], now["response/distinct"]
    if after < limits.distinct * before:
        found.append(f"{BUT} different answers went from {before:.0%} to {after:.0%}")
    before, after = first["response/eos_rate"], now["response/eos_rate"]
    if after < before - limits.eos:
        found.append(f"{BUT} answers that end went from {before:.0%} to {after:.0%}")
    for name in first:
        if name.startswith("reward/") and name.endswith("/std"):  # of an ensemble
            before, after = first[name], now[name]
            if after > limits.disagreement * before:
                found.append(f"{BUT} disagreement of {name[7:-4]} went from {before:.3g} to {after:.3g}")
    return found


def _mean(rounds: Sequence[Row]) -> dict[str, float]:
    names = set.intersection(*(set(row) for row in rounds))
    return {name: sum(row[name] for row in rounds) / len(rounds) for name in names}
