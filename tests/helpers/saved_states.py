"""What the tests of saved states share: a work folder, what it said, and states that are told apart."""

from __future__ import annotations

from pathlib import Path

import torch

from align.artifacts.work import Work

KEY = "ab" * 32


class Setting:
    """A work folder and what it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def work(self, key: str = KEY, keep: int = 2) -> Work:
        return Work(self.folder, key, keep=keep, stage="ppo", say=self.said.append)

    def filled(self, *steps: int) -> Work:
        work = self.work()
        for step in steps:
            work.save(step, tensors(step), {"step": step, "metrics": 0})
        return work

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def states(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir() if p.name.startswith("checkpoint"))


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), float(step)), "rng": torch.arange(8, dtype=torch.uint8)}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
