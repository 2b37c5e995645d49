"""What a worker is told and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

LR, BETA = 1e-5, 0.1
RANK, ALPHA = 16, 32
CLIP = 1.0


@dataclass(frozen=True)
class Spec:
    """How one side trains. Both sides of a comparison share all but the last group.

    Attributes:
        stage: sft, reward, dpo or rollout.
        adapter: full or lora.
        model: Folder of the checkpoint.
        template: Name of the chat template, which finds the tokens that end and pad.
        pad: Token that pads and is never EOS.
        batch: Rows of a step.
        pairs: Pairs of a row, 1 or the 6 of a ranking of 4, which peers train on one by one.
        cached: The reference's log-probs are there before the clock starts (dpo).
        micro: Sequences or pairs of a peer's forward; the rest of a step is accumulated.
        checkpointing: A peer computes activations again in the backward pass.
        logging: Steps between a peer's log lines; 0: none.
        tokens: Tokens of Align's forward; 0 lets it choose.
        ends: Tokens that end an answer (rollout).
        longest: Tokens behind which an answer is cut (rollout).
    """

    stage: str
    adapter: str
    model: str
    template: str | None
    pad: int
    batch: int
    pairs: int = 1
    cached: bool = False
    micro: int = 8
    checkpointing: bool = False
    logging: int = 0
    tokens: int = 0
    ends: tuple[int, ...] = ()
    longest: int = 0


@dataclass(frozen=True)
class Trace:
    """One pass over the rows of a run.

    Attributes:
        seconds: Of the training alone: model, start weights and rows were there.
        losses: Of each step, before its update.
        norms: Of each step's gradient, before it is clipped.
        peak_mb: Largest resident memory of the process during training, 10^6 bytes.
        whole_peak: Where the system cannot reset the peak, `peak_mb` is that of the process's whole life.
        tokens: Of each answer, where answers were sampled (rollout); then there are no losses.
    """

    seconds: float
    losses: list[float]
    norms: list[float]
    peak_mb: float
    whole_peak: bool = False
    tokens: list[list[int]] = field(default_factory=list)
