"""Options of reinforcement learning that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from align.config.refuse import Finding
from align.config.reward_contradictions import nothing_earned, reward_alone
from align.config.rl_options import GROUPED, RlOptions, SampleOptions, critic_source
from align.config.stages import ProcessRewardOptions
from align.config.unread import unread

CRITIC = ("lam", "critic", "critic_lr", "critic_init", "critic_warmup", "value_clip")
PER_TOKEN = ("gae", "reinforce_pp", "remax")


def rl(key: str, o: RlOptions, stages: Mapping[str, BaseModel]) -> list[Finding]:
    """What cannot go together in a stage of kind `rl`."""
    return (
        reward_alone(f"{key}.reward", o.reward)
        + _not_read(key, o)
        + _groups(key, o)
        + _kl(key, o)
        + _critic(key, o, stages)
        + _lengths(key, o)
        + _episodes(key, o)
    )


def sample(key: str, o: SampleOptions) -> list[Finding]:
    """What cannot go together in a stage of kind `sample`."""
    findings = []
    if o.reward is not None:
        findings = reward_alone(f"{key}.reward", o.reward) + nothing_earned(f"{key}.reward", o.reward, o.kind)
    if o.reward is None and (o.keep == "ranking" or o.min_score is not None):
        name = "keep" if o.keep == "ranking" else "min_score"
        what = f"{getattr(o, name)} compares scores, and {key}.reward gives none"
        back = "best" if name == "keep" else "null"
        findings.append(Finding(f"{key}.{name}", what, f"name a reward, or try {key}.{name}={back}"))
    if o.keep == "ranking" and o.samples_per_prompt == 1:
        what = f"1 is no ranking, which {key}.keep asks for"
        findings.append(Finding(f"{key}.samples_per_prompt", what, f"try {key}.samples_per_prompt=4"))
    return findings


def _not_read(key: str, o: RlOptions) -> list[Finding]:
    """Options that were changed and that nothing reads."""
    readers = {
        **{name: ("advantage", ["gae"], o.advantage) for name in CRITIC},
        "gamma": ("advantage", list(PER_TOKEN), o.advantage),
        "dual_clip": ("loss", ["clip"], o.loss),
        **{
            name: ("kl", ["k1", "k2", "k3"], o.kl)
            for name in ("kl_in", "kl_coef", "kl_target", "kl_horizon", "reference_every")
        },
    }
    findings: list[Finding] = []
    for name, (other, fit, chosen) in readers.items():
        if chosen not in fit:
            findings += unread(key, o, name, f"{key}.{other}={chosen}", f"{key}.{other}={fit[0]}")
    if o.ptx_data is None:
        for name in ("ptx_coef", "ptx_batch"):
            findings += unread(key, o, name, f"a stage without {key}.ptx_data", f"{key}.ptx_data=...")
    return findings


def _groups(key: str, o: RlOptions) -> list[Finding]:
    """What compares the answers to one prompt needs two of them."""
    if o.samples_per_prompt > 1:
        return []
    name = f"{key}.samples_per_prompt"
    if o.advantage in GROUPED:
        what = f"1 leaves {key}.advantage={o.advantage} nothing to compare an answer with"
        return [Finding(name, what, f"try {name}=4, or {key}.advantage=gae")]
    if o.resample:
        what = f"1 makes no group whose scores could differ, and {key}.resample={o.resample} replaces those"
        return [Finding(name, what, f"try {name}=4, or {key}.resample=0")]
    return []


def _kl(key: str, o: RlOptions) -> list[Finding]:
    if o.kl == "k1" and o.kl_in == "loss":
        what = "loss with k1 has the gradient of the log-probability alone, which holds nothing back"
        return [Finding(f"{key}.kl_in", what, f"try {key}.kl=k3, or {key}.kl_in=reward")]
    if o.kl_target is not None and o.kl_coef == 0:
        what = f"{o.kl_target:g} cannot be reached: it scales {key}.kl_coef=0"
        return [Finding(f"{key}.kl_target", what, f"try {key}.kl_coef=0.05, or {key}.kl_target=null")]
    return []


def _critic(key: str, o: RlOptions, stages: Mapping[str, BaseModel]) -> list[Finding]:
    if o.advantage != "gae":
        return []
    findings: list[Finding] = []
    source = critic_source(o)
    if source is None and o.critic_init == "reward":
        what = f"reward has no head to start from: {key}.reward has no reward model"
        findings.append(Finding(f"{key}.critic_init", what, f"try {key}.critic_init=fit"))
    if o.critic_init == "reward" and source and isinstance(stages.get(source), ProcessRewardOptions):
        what = f"reward starts the critic from a head that scores the steps of {source}"
        findings.append(Finding(f"{key}.critic_init", what, f"try {key}.critic_init=fit"))
    if o.critic_warmup >= o.iterations:
        what = f"{o.critic_warmup} leaves the policy none of {key}.iterations={o.iterations}"
        findings.append(Finding(f"{key}.critic_warmup", what, f"try {key}.critic_warmup={o.iterations - 1}"))
    return findings


def _lengths(key: str, o: RlOptions) -> list[Finding]:
    limit = o.sampling.max_new_tokens
    if o.overlong_buffer < limit:
        return []
    what = f"{o.overlong_buffer} is no less than {key}.sampling.max_new_tokens={limit}"
    return [Finding(f"{key}.overlong_buffer", what, f"try {key}.overlong_buffer={limit // 4}")]


def _episodes(key: str, o: RlOptions) -> list[Finding]:
    if o.environment is not None:
        return []
    instead = f"{key}.environment=calculator"
    return unread(key, o, "max_turns", f"{key}.environment=null", instead) + nothing_earned(
        f"{key}.reward", o.reward, f"{o.kind} without an environment", instead
    )
