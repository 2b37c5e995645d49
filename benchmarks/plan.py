"""What is compared with what, in the order of its weight: time runs out at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.protocol import PAIRS


@dataclass(frozen=True)
class Peer:
    """A side to compare with, in one setting.

    Attributes:
        side: Its module in `benchmarks.sides`.
        setting: How it is shown.
        micro: Sequences or pairs of a forward; the rest of a step is accumulated. Of rollouts, a batch.
        checkpointing: Activations are computed again in the backward pass.
        logging: Steps between log lines; 0: none.
        grouped: Rows come grouped by length, to both sides.
        cached: The reference's log-probs are cached, on both sides (dpo).
    """

    side: str
    setting: str
    micro: int = 8
    checkpointing: bool = False
    logging: int = 0
    grouped: bool = False
    cached: bool = False


SHIPPED = Peer("trl", "as shipped, bf16 off", checkpointing=True, logging=10)
TUNED = Peer("trl", "tuned, batch 8")
GROUPED = Peer("trl", "tuned, batch 8, grouped by length", grouped=True)
SINGLE = Peer("trl", "tuned, batch 1, accumulated", micro=1)
PLAIN_TUNED = Peer("transformers", "tuned, batch 8")
PLAIN_SINGLE = Peer("transformers", "tuned, batch 1, accumulated", micro=1)
CACHED_TUNED = Peer("trl", "tuned, batch 8", cached=True)
CACHED_GROUPED = Peer("trl", "tuned, batch 8, grouped by length", grouped=True, cached=True)
CACHED_SINGLE = Peer("trl", "tuned, batch 1, accumulated", micro=1, cached=True)

ONE_BATCH = Peer("generate", "tuned, one batch", micro=64)
HALVES = Peer("generate", "tuned, batch 32", micro=32)
SORTED = Peer("generate", "tuned, batch 32, grouped by length", micro=32, grouped=True)

SMOLLM2, SMALL = "smollm2_135m", "small"
GRID = {
    "sft": (TUNED, SINGLE, PLAIN_TUNED, PLAIN_SINGLE, GROUPED, SHIPPED),
    "reward": (TUNED, SINGLE, GROUPED, SHIPPED),
    "dpo": (TUNED, SINGLE, GROUPED, SHIPPED, CACHED_TUNED, CACHED_SINGLE, CACHED_GROUPED),
}
RANKED = (TUNED, SINGLE, SHIPPED)  # a ranking's pairs, so there is nothing to group


@dataclass(frozen=True)
class Comparison:
    """Align beside one peer.

    Attributes:
        model: `smollm2_135m` or `small`, or what `benchmarks.data.model` takes else.
        stage: sft, reward, dpo or rollout.
        data: conversations, pairs, rankings (of 4 answers) or prompts.
        adapter: full or lora; rollouts are those of the plain model.
        peer: The other side.
        rows: Rows of a step; a run is one step.
        pairs: Runs of each side.
    """

    model: str
    stage: str
    data: str
    adapter: str
    peer: Peer
    rows: int = 8
    pairs: int = PAIRS

    @property
    def group(self) -> tuple[str, str, str, str, bool]:
        """What the settings of a peer have in common: the best of them is the one to beat."""
        return self.model, self.stage, self.data, self.adapter, self.peer.cached

    @property
    def name(self) -> str:
        """What the command line selects by."""
        cached = " cached" if self.peer.cached else ""
        what = f"{Path(self.model).name} {self.stage} {self.data} {self.adapter}{cached}"
        return f"{what} {self.peer.side} {self.peer.setting}"

    @property
    def units(self) -> int:
        """Pairs that a peer makes of one row."""
        return 6 if self.data == "rankings" else 1


# (stage, data, rows of a step): 4 rankings of 4 answers are 24 pairs.
KINDS = (("sft", "conversations", 8), ("reward", "pairs", 8), ("dpo", "pairs", 8), ("reward", "rankings", 4))
CONVERSATIONS_AND_PAIRS, RANKINGS = ("conversations", "pairs"), ("rankings",)
ALL = CONVERSATIONS_AND_PAIRS + RANKINGS


def full() -> list[Comparison]:
    """SmolLM2 beside the setting that is hardest to beat, the grid on the small model, then the rest.

    Rankings cost a peer six times as many tokens, so on SmolLM2 they come late.
    """
    return [
        *_grid(SMOLLM2, "full", SINGLE.setting, CONVERSATIONS_AND_PAIRS),
        *_grid(SMALL, "full"),
        *(
            Comparison(SMOLLM2, "rollout", "prompts", "full", peer, 64)
            for peer in (ONE_BATCH, HALVES, SORTED)
        ),
        *_grid(SMOLLM2, "full", SINGLE.setting, RANKINGS),
        *_grid(SMOLLM2, "lora", SINGLE.setting),
        *_grid(SMOLLM2, "full", TUNED.setting),
        *_grid(SMALL, "lora", SINGLE.setting),
        *_grid(SMALL, "lora", TUNED.setting),
        *_grid(SMOLLM2, "lora", TUNED.setting),
    ]


def quick() -> list[Comparison]:
    """TRL in two settings on the small model; too few pairs for a claim."""
    found = [c for data in ALL for c in _grid(SMALL, "full", None, (data,), pairs=3)]
    return [c for c in found if c.peer in (SINGLE, TUNED)]


def _grid(
    model: str,
    adapter: str,
    setting: str | None = None,
    data: Sequence[str] = ALL,
    pairs: int = PAIRS,
) -> list[Comparison]:
    return [
        Comparison(model, stage, kind, adapter, peer, rows, pairs)
        for stage, kind, rows in KINDS
        if kind in data
        for peer in (RANKED if kind in RANKINGS else GRID[stage])
        if setting in (None, peer.setting)
    ]


# Peers that take no part: module -> what it is.
ABSENT = {
    "torchtune": "torchtune 0.6 (SFT, DPO)",
    "llamafactory": "LLaMA-Factory 0.9.5 (SFT, reward, DPO, KTO)",
}
