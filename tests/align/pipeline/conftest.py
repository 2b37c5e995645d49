"""A quick chain of stages: graph, keys and options of real kinds, with a few lines of arithmetic inside."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chain_runs import results
from safetensors.torch import load_file, save_file

from align.artifacts.store import Store
from align.config.schema import Recipe
from align.data import cards
from align.errors import DataError, Interrupted
from align.models import sources
from align.pipeline import plan as plans
from align.pipeline import runner
from align.stages.base import Stage

CHAIN: dict[str, Any] = {
    "sft": {"kind": "sft", "model": "base", "data": "talks", "checkpoint_every": 2},
    "rm": {"kind": "reward", "model": "sft", "data": "rankings", "checkpoint_every": 3},
    "ppo": {
        "kind": "rl",
        "policy": "sft",
        "reward": "rm",
        "prompts": ["talks", "more"],
    },
    "eval": {"kind": "evaluate", "policies": ["sft", "ppo"], "reward": "rm", "prompts": "talks"},
}


class FakeStage(Stage[Any]):
    """Draws numbers into a weight for a few steps; what comes out depends on options, seed and inputs."""

    steps = 7
    prepared: list[str] = []
    ran: list[str] = []
    hook: Callable[[FakeStage, int], None] = staticmethod(lambda stage, step: None)

    def prepare(self) -> int:
        """Refuse data that are called bad."""
        FakeStage.prepared.append(self.ctx.name)
        if getattr(self.ctx.options, "data", None) == "bad":
            raise DataError("bad:3", "holds no answer", "mend row 3")
        return self.steps

    def run(self, out: Path) -> dict[str, Any]:
        """Count the steps that were not done yet."""
        ctx = self.ctx
        FakeStage.ran.append(ctx.name)
        generator = random.Random(ctx.seed)
        weight = torch.zeros(4, dtype=torch.float64)
        for name in sorted(ctx.inputs):
            weight += load_file(ctx.inputs[name].path / "w.safetensors")["w"]
        start, state = 0, ctx.work.latest()
        if state is not None:
            start, weight = state.step, state.tensors["w"]
            version, words, gauss = state.state["random"]
            generator.setstate((version, tuple(words), gauss))
        ctx.work.metrics.truncate(state.state["metrics"] if state else 0)
        every = getattr(ctx.options, "checkpoint_every", 2)
        for step in range(start + 1, self.steps + 1):
            FakeStage.hook(self, step)
            weight += generator.random() * getattr(ctx.options, "lr", 1.0)
            ctx.work.metrics.append({"step": step, "loss": float(weight.sum())})
            ctx.reporter.step(step, self.steps, {"loss": float(weight.sum())})
            if step % every == 0 or ctx.stop():
                version, words, gauss = generator.getstate()
                rest = {"random": [version, list(words), gauss], "metrics": len(ctx.work.metrics)}
                ctx.work.save(step, {"w": weight}, rest)
            if ctx.stop():
                raise Interrupted("stopped", f"state saved at step {step}", "the same command resumes")
        save_file({"w": weight}, out / "w.safetensors")
        return {"kind": ctx.options.kind, "steps": self.steps, "nan": float("nan")}


MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Name -> hash of the data that the recipes name; a test may change one."""
    content: dict[str, str] = {name: f"hash-of-{name}" for name in ("talks", "rankings", "more", "bad")}

    def identity(value: Any) -> dict[str, str]:
        found = {}
        for ref in value if isinstance(value, list) else [value]:
            name = ref if isinstance(ref, str) else ref.card or ref.path
            if Path(name).name not in content:
                raise DataError(f"data {name!r}", "is neither a card nor a file", "see align recipes")
            found[Path(name).name] = content[Path(name).name]
        return found

    monkeypatch.setattr(cards, "identity", identity)
    return content


@pytest.fixture
def make_recipe(tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> MakeRecipe:
    """Recipes on fake stages; `sft={"lr": 1e-3}` changes options, None leaves a stage out."""
    (tmp_path / "base").mkdir()
    monkeypatch.setattr(plans, "stage_class", lambda kind: FakeStage)
    monkeypatch.setattr(plans, "leaks", lambda recipe: [])  # the data are names only
    monkeypatch.setattr(sources, "identity", lambda model: f"{model.kind}:{getattr(model, 'seed', 0)}")
    monkeypatch.setattr(sources, "materialise", lambda model: tmp_path / "base")
    FakeStage.prepared.clear()
    FakeStage.ran.clear()
    monkeypatch.setattr(FakeStage, "hook", staticmethod(lambda stage, step: None))

    def make(top: dict[str, Any] | None = None, **changes: Any) -> Recipe:
        stages = {
            name: {**CHAIN.get(name, {}), **(changes.get(name) or {})}
            for name in [*CHAIN, *(name for name in changes if name not in CHAIN)]
            if changes.get(name, {}) is not None
        }
        fields = {
            "recipe": "rlhf",
            "model": {"kind": "tiny"},
            "adapter": {"kind": "none"},
            "hardware": {},
            "runs": str(tmp_path / "runs"),
            "stages": stages,
            **(top or {}),
        }
        return Recipe.model_validate(fields)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of those recipes."""
    return Store(tmp_path / "runs" / "artifacts", lambda text: None)


@pytest.fixture
def fake_stage() -> type[FakeStage]:
    """The class of every stage of those recipes."""
    return FakeStage


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the end-of-run summary was given, in place of the summary."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(runner, "finish", lambda *given, **named: calls.append((*given, named)))
    return calls


@pytest.fixture
def wanted(make_recipe: Any, tmp_path: Path) -> dict[str, bytes]:
    """Results of a run that nothing disturbed, in another folder."""
    recipe = make_recipe({"runs": str(tmp_path / "undisturbed")})
    assert runner.run(recipe, []) == 0
    return results(recipe)
