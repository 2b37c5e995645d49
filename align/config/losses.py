"""The losses that the stage `dpo` may name, and what each of them reads.

The losses themselves stand in `align/objectives/`; here is what can be checked without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from align.registry import nearest

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]


@dataclass(frozen=True)
class Traits:
    """What a preference loss reads.

    Attributes:
        reference: The reference's log-probs.
        divergence: Log-ratios, which another divergence than the reverse KL may transform.
        smoothing: `label_smoothing`.
        whole_batch: All pairs of a step at once: it compares them with one another, so a cut would change it.
        per_token: Without a reference; its implicit reward is the mean log-prob of a token, not the sum.
        rankings: All K answers of a prompt in their tiers; else the best and the worst.
    """

    reference: bool = True
    divergence: bool = False
    smoothing: bool = False
    whole_batch: bool = False
    per_token: bool = False
    rankings: bool = False


LOSSES: dict[str, Traits] = {
    "sigmoid": Traits(divergence=True, smoothing=True),
    "robust": Traits(divergence=True, smoothing=True),
    "exo": Traits(divergence=True, smoothing=True),
    "hinge": Traits(divergence=True),
    "ipo": Traits(divergence=True),
    "sigmoid_norm": Traits(divergence=True),
    "discopop": Traits(divergence=True),
    "aot": Traits(smoothing=True, whole_batch=True),
    "nca": Traits(),
    "bco": Traits(),
    "sppo": Traits(),
    "apo_zero": Traits(),
    "apo_down": Traits(),
    "nll": Traits(reference=False),
    "cpo": Traits(reference=False),
    "orpo": Traits(reference=False, per_token=True),
    "simpo": Traits(reference=False, per_token=True),
    "plackett_luce": Traits(rankings=True),
    "bradley_terry": Traits(rankings=True),
}
TRL_NAMES: dict[str, str] = {  # of the losses that TRL calls otherwise
    "exo": "exo_pair", "nca": "nca_pair", "bco": "bco_pair", "sppo": "sppo_hard", "nll": "sft"
}  # fmt: skip


def weights_of(loss: str | Mapping[str, float]) -> dict[str, float]:
    """Name -> weight; a bare name has weight 1.

    Raises:
        ValueError: A name that no loss has, or none at all.

    Example:
        >>> weights_of("ipo")
        {'ipo': 1.0}
        >>> weights_of({"sigmod": 1.0, "nll": 0.2})
        Traceback (most recent call last):
        ValueError: 'sigmod' is not a loss; did you mean sigmoid?
    """
    weights = {loss: 1.0} if isinstance(loss, str) else dict(loss)
    if not weights:
        raise ValueError("names no loss; give sigmoid, or {sigmoid: 1.0, nll: 0.2}")
    ours = {theirs: name for name, theirs in TRL_NAMES.items()}
    for name in weights:
        if name not in LOSSES:
            near = ours.get(name) or nearest(name, LOSSES)
            hint = f"did you mean {near}?" if near else f"choose one of {', '.join(LOSSES)}"
            raise ValueError(f"{name!r} is not a loss; {hint}")
    return weights
