"""Components of a reward that are right one by one and wrong by themselves or together."""

from __future__ import annotations

from collections.abc import Mapping

from align.config.refuse import Finding
from align.config.rewards import AnyReward, EnsembleReward, EnvironmentReward


def reward_alone(key: str, rewards: str | Mapping[str, AnyReward]) -> list[Finding]:
    """What cannot go together in a stage's reward.

    Args:
        key: Its path, such as `stages.ppo.reward`.
        rewards: The name of a stage, or named components.
    """
    if isinstance(rewards, str):
        return []
    findings: list[Finding] = []
    for name, component in rewards.items():
        if isinstance(component, EnsembleReward):
            findings += _ensemble(f"{key}.{name}", component)
    if all(component.weight == 0 for component in rewards.values()):
        first = f"{key}.{next(iter(rewards))}.weight"
        findings.append(
            Finding(first, "0, as all weights are, leaves nothing to learn from", f"try {first}=1")
        )
    return findings


def nothing_earned(
    key: str, rewards: str | Mapping[str, AnyReward], kind: str, instead: str = ""
) -> list[Finding]:
    """Components that read what an environment gives, where none is.

    Args:
        key: As above.
        rewards: As above.
        kind: What has none: `evaluate`.
        instead: An override that would give one; empty where there is none.
    """
    fix = f"try {instead}, or another kind" if instead else "give another kind"
    return [
        Finding(f"{key}.{name}.kind", f"environment is earned in episodes, and kind {kind} plays none", fix)
        for name, component in ({} if isinstance(rewards, str) else rewards).items()
        if isinstance(component, EnvironmentReward)
    ]


def _ensemble(key: str, options: EnsembleReward) -> list[Finding]:
    twice = sorted({name for name in options.models if options.models.count(name) > 1})
    findings = [Finding(f"{key}.models", f"{name!r} stands twice", "name each model once") for name in twice]
    default = EnsembleReward.model_fields["std_weight"].default
    if options.combine != "mean_minus_std" and options.std_weight != default:
        what = f"{options.std_weight:g} is not read by {key}.combine={options.combine}"
        fix = f"try {key}.combine=mean_minus_std, or {key}.std_weight={default:g}"
        findings.append(Finding(f"{key}.std_weight", what, fix))
    return findings
