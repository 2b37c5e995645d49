"""The loop on a toy task: accumulation, refusal of bad numbers, interruption, exact resume."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from align.artifacts.store import Store, Work
from align.config.stages import SftOptions
from align.errors import IntegrityError, Interrupted, NumericsError
from align.objectives.reduce import Loss, Metric
from align.training import state
from align.training.loop import Micro, seed_all, train
from align.training.optim import Group

OPTIONS = SftOptions(kind="sft", data="x", lr=0.1, max_grad_norm=1e9, schedule="linear")


class Quiet:
    """A reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """Count."""
        self.lines.append(f"{step}/{total}")

    def note(self, text: str) -> None:
        """Keep."""
        self.lines.append(text)


class Line:
    """Least squares with dropout, so that the random generators matter."""

    def __init__(self, cut: int = 4, bad_step: int | None = None, total: int = 6, edges: int = 1) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
        self.groups = [Group("line", dict(self.model.named_parameters()), 0.1)]
        self.cut, self.bad_step, self.total, self.edges, self.memory = cut, bad_step, total, edges, 0.0
        self.dropout = 0.0

    def micros(self, step: int) -> tuple[Iterable[Micro], float]:
        """Rows in parts of `cut`."""

        def part(x: torch.Tensor) -> Loss:
            y = self.model(nn.functional.dropout(x, self.dropout)).pow(2).sum()
            if step == self.bad_step:
                y = y * float("nan")
            return Loss(y, {"square": Metric(y.detach(), float(len(x)))})

        parts = self.x.split(self.cut)
        return [Micro(lambda x=x: part(x), tuple(f"r{i}" for i in range(len(x))), len(x)) for x in parts], 4.0  # type: ignore[misc]

    def edge(self, step: int) -> bool:
        """Every `edges` steps."""
        return step % self.edges == 0

    def after(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """A running statistic that must survive."""
        self.memory = 0.5 * self.memory + metrics["loss"]
        return {**metrics, "memory": self.memory}

    def headline(self, row: Mapping[str, float]) -> dict[str, float]:
        """The loss."""
        return {"loss": row["loss"]}

    def halve(self) -> int:
        """Parts of half as many rows."""
        self.cut = max(1, self.cut // 2)
        return self.cut

    def state(self) -> dict[str, Any]:
        """The statistic."""
        return {"memory": self.memory}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def load(self, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Put it back."""
        self.memory = state["memory"]


def work(folder: Path) -> Work:
    return Store(folder).work("policy", "k" * 64)


def run(
    task: Line, folder: Path, stop_at: int | None = None, every: int = 2, options: SftOptions = OPTIONS
) -> Work:
    w = work(folder)
    calls = iter(range(1, 100))
    train(
        task, options, w, Quiet(), lambda: stop_at is not None and next(calls) == stop_at, seed=3, every=every
    )
    return w


def test_any_cut_gives_the_same_gradient(tmp_path: Path) -> None:
    whole, parts = Line(cut=4), Line(cut=1)
    a, b = run(whole, tmp_path / "a"), run(parts, tmp_path / "b")
    torch.testing.assert_close(whole.model.weight, parts.model.weight, rtol=1e-5, atol=1e-7)
    for x, y in zip(a.metrics.rows(), b.metrics.rows(), strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-5)
        assert x["square"] == pytest.approx(x["loss"], rel=1e-5), "the mean over rows"


def test_first_loss_and_gradient_norm_by_hand(tmp_path: Path) -> None:
    task = Line()
    weight, bias = task.model.weight.detach().clone(), task.model.bias.detach().clone()
    y = task.x @ weight[0] + bias
    gradient = torch.cat([(2 * y[:, None] * task.x).mean(0), (2 * y).mean()[None]])
    row = run(task, tmp_path).metrics.rows()[0]
    assert row["loss"] == pytest.approx(float(y.pow(2).mean()), rel=1e-5)
    assert row["grad_norm/line"] == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert row["step"] == 1


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_interrupted_and_resumed_is_bit_identical(tmp_path: Path, stop_at: int) -> None:
    whole, first, second = Line(), Line(), Line()
    for task in (whole, first, second):
        task.dropout = 0.5
    want = run(whole, tmp_path / "a").metrics.rows()
    with pytest.raises(Interrupted, match=f"step {stop_at} of 6"):
        run(first, tmp_path / "b", stop_at=stop_at)
    torch.manual_seed(99)
    got = run(second, tmp_path / "b").metrics.rows()
    assert got == want
    assert torch.equal(whole.model.weight, second.model.weight)


class Layer(Line):
    """The same with a hidden layer, under the name that a decoder's have."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(3, 2048), nn.Linear(2048, 1))
        names = {"0": "model.layers.0.up_proj", "1": "score"}
        named = {f"{names[n[0]]}{n[1:]}": p for n, p in self.model.named_parameters()}
        self.groups = [Group("line", named, 0.01)]
        self.dropout = 0.5


def test_a_model_in_bfloat16_resumes_bit_for_bit_and_learns_as_in_float32(tmp_path: Path) -> None:
    """The first loss differs by rounding alone; the float32 copies are part of the state."""
    tasks = [Line() for _ in range(4)]
    for task in tasks[1:]:
        task.model.bfloat16()
        task.x = task.x.bfloat16()
    exact, whole, first, second = tasks
    want = run(whole, tmp_path / "a").metrics.rows()
    with pytest.raises(Interrupted, match="step 3 of 6"):
        run(first, tmp_path / "b", stop_at=3)
    assert run(second, tmp_path / "b").metrics.rows() == want
    assert torch.equal(whole.model.weight, second.model.weight)
    losses = [[row["loss"] for row in rows] for rows in (run(exact, tmp_path / "c").metrics.rows(), want)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    saved = work(tmp_path / "b").latest()
    assert saved is not None
    assert saved.tensors["model/line/weight"].dtype == torch.float32


@pytest.mark.parametrize("optimizer", ["muon", "adamw_8bit"])
def test_other_optimizers_resume_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    if optimizer == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    options = OPTIONS.model_copy(update={"optimizer": optimizer, "lr": 0.01, "weight_decay": 0.1})
    whole, first, second = Layer(), Layer(), Layer()
    want = run(whole, tmp_path / "a", options=options).metrics.rows()
    with pytest.raises(Interrupted, match="step 3 of 6"):
        run(first, tmp_path / "b", stop_at=3, options=options)
    torch.manual_seed(99)
    got = run(second, tmp_path / "b", options=options).metrics.rows()
    assert got == want
    assert got[-1]["loss"] != got[0]["loss"]
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_carries_the_generators_of_python_and_numpy_too() -> None:
    """A task may draw from either, as it may from torch's."""
    model = nn.Linear(2, 1)
    parameters, optimizer = dict(model.named_parameters()), torch.optim.AdamW(model.parameters())
    seed_all(5)
    np.random.standard_normal()  # either leaves a second number behind, which is part of the state
    random.gauss(0.0, 1.0)
    tensors, rest = state.capture(parameters, optimizer)
    saved = {name: tensor.clone() for name, tensor in tensors.items()}

    def draw() -> tuple[float, float, float]:
        return random.gauss(0.0, 1.0), float(np.random.standard_normal()), float(torch.rand(()))

    want = draw()
    seed_all(6)
    assert draw() != want
    state.restore(parameters, optimizer, saved, json.loads(json.dumps(rest)), "here")
    assert draw() == want


def test_seeding_twice_draws_the_same() -> None:
    drawn = []
    for _ in range(2):
        seed_all(2**32 + 5)  # more than numpy takes
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert drawn[0] == drawn[1]
    assert drawn[0][1] == np.random.RandomState(5).rand(), "and another seed draws otherwise"


def test_a_stop_between_edges_goes_on_to_the_next_edge(tmp_path: Path) -> None:
    whole, first, second = Line(edges=2), Line(edges=2), Line(edges=2)
    want = run(whole, tmp_path / "a").metrics.rows()
    w = work(tmp_path / "b")
    with pytest.raises(Interrupted, match="step 4 of 6"):
        train(first, OPTIONS, w, Quiet(), lambda: len(w.metrics) >= 3, seed=3, every=100)
    assert len(w.metrics) == 4, "the round was finished, and nothing of it is lost"
    assert run(second, tmp_path / "b").metrics.rows() == want


def test_a_stop_in_the_last_round_ends_the_stage(tmp_path: Path) -> None:
    w = work(tmp_path)
    train(Line(edges=4), OPTIONS, w, Quiet(), lambda: len(w.metrics) >= 5, seed=3, every=100)
    assert len(w.metrics) == 6


def test_a_parameter_that_has_not_learned_yet_has_no_moments_and_a_lost_one_is_named() -> None:
    """While a critic warms up, the policy has no gradient."""
    model = nn.ModuleDict({"policy": nn.Linear(2, 1), "critic": nn.Linear(2, 1)})
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model["critic"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tensors, rest = state.capture(parameters, optimizer)
    state.restore(parameters, torch.optim.AdamW(model.parameters()), tensors, rest, "here")
    lost = {name: tensor for name, tensor in tensors.items() if not name.endswith("critic.bias")}
    with pytest.raises(IntegrityError, match="here: optimizer state of 1 of 2 parameters"):
        state.restore(parameters, torch.optim.AdamW(model.parameters()), lost, rest, "here")


def test_nan_stops_before_the_step_and_names_the_rows(tmp_path: Path) -> None:
    task = Line(cut=2, bad_step=3)
    with pytest.raises(NumericsError, match="step 4: loss nan is not finite"):
        run(task, tmp_path)
    clean = Line(cut=2)
    with pytest.raises(Interrupted):
        run(clean, tmp_path / "clean", stop_at=3)
    assert torch.equal(task.model.weight, clean.model.weight), "no step was taken with the bad batch"
    written = json.loads((work(tmp_path).folder / "bad_batch.json").read_text())
    assert written["step"] == 4
    assert written["rows"] == ["r0", "r1"]
    checkpoint = work(tmp_path).latest()
    assert checkpoint is not None
    assert checkpoint.step == 2


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path: Path) -> None:
    """The root of 0 is 0, its slope is not finite; the loss alone looks well."""
    task = Line()
    before = task.model.weight.detach().clone()

    def root() -> Loss:
        y = (0.0 * task.model(task.x)).abs().sum().sqrt()
        return Loss(y, {"square": Metric(y.detach(), 4.0)})

    task.micros = lambda step: ([Micro(root, ("r0", "r1"), 4)], 4.0)  # type: ignore[method-assign]
    work(tmp_path).folder.mkdir()  # as the lock of a run makes it
    with pytest.raises(NumericsError, match="step 1: gradient norm nan of line is not finite"):
        run(task, tmp_path)
    assert torch.equal(task.model.weight, before), "no step was taken with it"
    assert json.loads((work(tmp_path).folder / "bad_batch.json").read_text())["rows"] == ["r0", "r1"]


def test_a_state_that_lacks_a_part_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(Line(), tmp_path, stop_at=2)
    w = work(tmp_path)
    checkpoint = w.latest()
    assert checkpoint is not None
    tensors = {k: v for k, v in checkpoint.tensors.items() if k != "optimizer/exp_avg_sq/line/bias"}
    w.save(3, tensors, checkpoint.state)
    with pytest.raises(IntegrityError, match="misses 'optimizer/exp_avg_sq/line/bias'"):
        run(Line(), tmp_path)


class _FailingBackward(torch.autograd.Function):
    """The identity, whose backward runs out of memory while `left` lasts."""

    left = 0

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        if _FailingBackward.left:
            _FailingBackward.left -= 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return grads[0]


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_step_that_runs_out_of_memory_is_done_again_in_smaller_parts(
    tmp_path: Path, where: str, times: int
) -> None:
    whole, short = Line(), Line()
    want = run(whole, tmp_path / "a").metrics.rows()
    micros, left = short.micros, [times if where == "forward" else 0]

    def failing(step: int) -> tuple[Iterable[Micro], float]:
        parts, count = micros(step)

        def loss(part: Micro) -> Loss:
            if step == 2 and left[0]:
                left[0] -= 1
                raise MemoryError
            made = part.loss()
            return Loss(_FailingBackward.apply(made.total), made.metrics)  # type: ignore[no-untyped-call]

        if step == 2 and where == "backward" and short.cut == 4:
            _FailingBackward.left = times
        return [Micro(lambda part=part: loss(part), part.names, part.tokens) for part in parts], count  # type: ignore[misc]

    short.micros = failing  # type: ignore[method-assign]
    got = run(short, tmp_path / "b").metrics.rows()
    assert short.cut == 4 // 2**times
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    torch.testing.assert_close(short.model.weight, whole.model.weight, rtol=1e-5, atol=1e-7)


def test_a_step_that_is_done_again_draws_the_same_numbers_and_the_next_one_others(tmp_path: Path) -> None:
    """Of dropout, say."""
    task, drawn = Line(total=2), []
    micros, left = task.micros, [1]

    def drawing(step: int) -> tuple[Iterable[Micro], float]:
        parts, count = micros(step)

        def loss(part: Micro) -> Loss:
            drawn.append((step, float(torch.rand(()))))
            if left and left.pop():
                raise MemoryError
            return part.loss()

        return [Micro(lambda part=part: loss(part), part.names, part.tokens) for part in parts], count  # type: ignore[misc]

    task.micros = drawing  # type: ignore[method-assign]
    run(task, tmp_path)
    assert [step for step, _ in drawn] == [0, 0, 0, 1, 1], "whole, then twice in halves"
    values = [value for _, value in drawn]
    assert values[0] == values[1]
    assert len(set(values)) == 4


def test_it_gives_up_after_three_halvings_and_takes_no_step(tmp_path: Path) -> None:
    task = Line(cut=16)
    before = task.model.weight.detach().clone()
    tries: list[int] = []

    def loss() -> Loss:
        tries.append(task.cut)
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 MiB")

    task.micros = lambda step: ([Micro(loss, ("r",), 1)], 1.0)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        run(task, tmp_path)
    assert tries == [16, 8, 4, 2]
    assert torch.equal(task.model.weight, before)


def test_another_error_is_not_tried_again(tmp_path: Path) -> None:
    task, tries = Line(), []

    def loss() -> Loss:
        tries.append(1)
        raise RuntimeError("size mismatch")

    task.micros = lambda step: ([Micro(loss, ("r",), 1)], 1.0)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="size mismatch"):
        run(task, tmp_path)
    assert tries == [1]
