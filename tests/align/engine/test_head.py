"""The entropy of the head as a bonus: its gradient against autograd on full logits."""

from __future__ import annotations

import pytest
import torch

from align.engine import head as head_module
from align.engine.head import token_logps


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [3, 256])
@pytest.mark.parametrize("frozen", [False, True])
def test_log_probs_and_entropy_have_the_gradient_of_full_logits(
    temperature: float, bias: bool, chunk: int, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK", chunk)
    torch.manual_seed(2)
    head = torch.nn.Linear(6, 17, bias=bias).requires_grad_(not frozen)
    head.weight.data.mul_(3)  # distributions far from even
    h = torch.randn(7, 6, requires_grad=True)
    targets, a, b = torch.randint(0, 17, (7,)), torch.randn(7), torch.randn(7)
    learns = [h] if frozen else [h, *head.parameters()]
    logps, entropy = token_logps(h, head, targets, temperature=temperature, measure="entropy", bonus=True)
    assert entropy is not None
    got = torch.autograd.grad((logps * a).sum() + (entropy * b).sum(), learns)
    full = (head(h) / temperature).log_softmax(-1)
    plain = -(full.exp() * full).sum(-1)
    want = torch.autograd.grad(
        (full.gather(-1, targets[:, None])[:, 0] * a).sum() + (plain * b).sum(), learns
    )
    torch.testing.assert_close(entropy, plain, rtol=1e-5, atol=1e-6)
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_without_a_bonus_the_entropy_carries_no_gradient() -> None:
    head, h = torch.nn.Linear(6, 17), torch.randn(3, 6, requires_grad=True)
    _, entropy = token_logps(h, head, torch.tensor([1, 2, 3]), measure="entropy")
    assert entropy is not None
    assert not entropy.requires_grad
    with pytest.raises(ValueError, match="only the entropy"):
        token_logps(h, head, torch.tensor([1, 2, 3]), measure="log_squares", bonus=True)
