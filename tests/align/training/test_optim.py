"""Schedules by hand; AdamW and Muon against the update written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from align.training.optim import Group, Together, build, clipped_together, factor, set_lr


@pytest.mark.parametrize(
    ("schedule", "step", "want"),
    [
        ("linear", 0, 0.5), ("linear", 1, 1.0), ("linear", 2, 1.0), ("linear", 6, 0.5), ("linear", 9, 0.125),
        ("constant", 0, 0.5), ("constant", 9, 1.0),
        ("cosine", 2, 1.0), ("cosine", 6, 0.5), ("cosine", 4, 0.5 * (1 + math.cos(math.pi / 4))),
    ],
)  # fmt: skip
def test_factor_with_two_warm_up_steps_of_ten(schedule: str, step: int, want: float) -> None:
    assert factor(schedule, step, 10, 0.2) == pytest.approx(want)


def test_first_step_is_adamws_update_written_out() -> None:
    matrix, vector = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((2,), 3.0))
    optimizer = build("adamw", [Group("g", {"m": matrix, "v": vector}, 0.1)], weight_decay=0.5)
    set_lr(optimizer, 0.5)
    matrix.grad, vector.grad = torch.full((2, 2), -7.0), torch.full((2,), 2.0)
    optimizer.step()
    # The first Adam step has size lr whatever the gradient; decay takes lr * 0.5 of a matrix and nothing of a
    # vector.
    torch.testing.assert_close(matrix.detach(), torch.full((2, 2), 3.0 * (1 - 0.05 * 0.5) + 0.05))
    torch.testing.assert_close(vector.detach(), torch.full((2,), 3.0 - 0.05))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_factors_of_ia3_are_vectors_and_a_head_of_one_row_is_none(name: str) -> None:
    layer = "base_model.model.model.layers.0"
    shapes = {
        f"{layer}.self_attn.k_proj.ia3_l.default": (4, 1),
        f"{layer}.mlp.down_proj.ia3_l.default": (1, 4),
        "base_model.model.score.modules_to_save.default.weight": (1, 4),
    }
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    optimizer = build(name, [Group("g", parameters, 0.1)], weight_decay=0.5)
    gradient = torch.tensor([-1.0, -2.0, 3.0, 4.0])
    for p in parameters.values():
        p.grad = gradient.reshape(p.shape).clone()
    set_lr(optimizer, 1.0)
    optimizer.step()
    # AdamW's first step is lr against the gradient's sign; orthogonalised, its entries would differ in size.
    step = torch.tensor([0.1, 0.1, -0.1, -0.1])
    for place, p in parameters.items():
        kept = 1.0 if "ia3_l" in place else 1.0 - 0.1 * 0.5
        torch.testing.assert_close(p.detach().flatten(), kept + step, msg=place)


def test_groups_of_one_model_are_clipped_as_one() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    head = Group("head", {"b": b}, 0.2, clip_with="body")
    groups = [Group("body", {"a": a}, 0.1), head, Group("critic", {"c": c}, 0.1)]
    together = clipped_together(groups)
    assert {name: [id(p) for p in parts] for name, parts in together.items()} == {
        "body": [id(a), id(b)],
        "critic": [id(c)],
    }


def model() -> dict[str, nn.Parameter]:
    """The kinds of parameters of a small decoder with an adapter."""
    g = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (7, 4),
        "model.layers.0.mlp.up_proj.weight": (6, 4),
        "model.layers.0.mlp.up_proj.bias": (6,),
        "layers.1.mlp.experts": (2, 3, 4),
        "base_model.model.transformer.h.1.attn.lora_A.default.weight": (2, 4),
        "score.weight": (1, 4),
    }
    return {name: nn.Parameter(torch.randn(shape, generator=g)) for name, shape in shapes.items()}


HIDDEN = {"model.layers.0.mlp.up_proj.weight", "base_model.model.transformer.h.1.attn.lora_A.default.weight"}


def orthogonal(x: Tensor) -> Tensor:
    """Five rounds of the quintic iteration in Keller Jordan's post, in bf16 as there."""
    x = x.bfloat16()
    flipped = x.shape[0] > x.shape[1]
    x = x.T if flipped else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if flipped else x).float()


def test_muon_steps_hidden_matrices_as_written_out_and_adamw_the_rest() -> None:
    parameters, plain = model(), model()
    ours = build("muon", [Group("g", parameters, 0.1)], weight_decay=0.5)
    rest = {name: p for name, p in plain.items() if name not in HIDDEN}
    adamw = build("adamw", [Group("g", rest, 0.1)], weight_decay=0.5)
    momenta = {name: torch.zeros_like(plain[name]) for name in HIDDEN}
    for step in range(3):
        g = torch.Generator().manual_seed(10 + step)
        set_lr(ours, 0.5)
        set_lr(adamw, 0.5)
        for name, p in plain.items():
            p.grad = torch.randn(p.shape, generator=g)
            parameters[name].grad = p.grad.clone()
        ours.step()
        adamw.step()
        for name, kept in momenta.items():
            p, grad = plain[name].detach(), plain[name].grad
            assert grad is not None
            kept.mul_(0.95).add_(0.05 * grad)  # torch keeps a mean where the post keeps a sum
            update = orthogonal(0.05 * grad + 0.95 * kept)
            p.mul_(1 - 0.05 * 0.5).sub_(0.05 * 0.2 * math.sqrt(max(p.shape)) * update)
    for name, p in plain.items():
        exact = name not in HIDDEN
        torch.testing.assert_close(parameters[name], p, rtol=0, atol=0 if exact else 2e-3, msg=name)


def test_muon_equals_torchs_own_bit_for_bit() -> None:
    parameters, plain = model(), model()
    ours = build("muon", [Group("g", parameters, 0.1)], weight_decay=0.1)
    theirs = torch.optim.Muon(
        [plain[name] for name in sorted(HIDDEN)], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        for name, p in plain.items():
            p.grad = torch.randn(p.shape, generator=g)
            parameters[name].grad = p.grad.clone()
        ours.step()
        theirs.step()
    for name in HIDDEN:
        assert torch.equal(parameters[name], plain[name])


def test_muon_keeps_the_groups_their_rates_and_what_is_not_decayed() -> None:
    parameters = model()
    head = {"score.weight": parameters.pop("score.weight")}
    optimizer = build("muon", [Group("body", parameters, 0.1), Group("head", head, 0.3)], weight_decay=0.5)
    assert isinstance(optimizer, Together)
    told = [(len(g["params"]), g["peak"], g["weight_decay"]) for g in optimizer.param_groups]
    assert told == [(2, 0.1, 0.5), (2, 0.1, 0.5), (1, 0.1, 0.0), (1, 0.3, 0.5)]
    set_lr(optimizer, 0.5)
    assert {g["lr"] for part in optimizer.parts for g in part.param_groups} == {0.05, 0.15}


def test_muon_without_a_hidden_matrix_is_adamw() -> None:
    head = {"score.weight": nn.Parameter(torch.zeros(1, 4))}
    assert isinstance(build("muon", [Group("head", head, 0.1)], 0.0), torch.optim.AdamW)


def test_muon_goes_on_from_a_state_that_was_put_back() -> None:
    """accelerate puts an optimizer's state into it before training; rates and moments must still be read."""
    body, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    parameters = {"model.layers.0.q.weight": body, "model.layers.0.q.bias": bias}
    optimizer = build("muon", [Group("g", parameters, 0.1)], weight_decay=0.0)
    optimizer.load_state_dict(optimizer.state_dict())
    set_lr(optimizer, 0.0)
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert body.tolist() == [[1.0, 1.0], [1.0, 1.0]], "a rate of 0 moves nothing"
    assert bias.tolist() == [1.0, 1.0]
    assert set(optimizer.state) == {body, bias}
