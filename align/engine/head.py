"""Log-probabilities of given tokens without ever holding the [positions, vocabulary] logits.

    logp_c = z_c[t_c] - logsumexp(z_c),   z_c = (W h_c + b) / temperature
    d logp_c / d h_c = (W[t_c] - sum_v softmax(z_c)_v W[v]) / temperature

The second line needs one more product per chunk and then only [C, D] numbers are kept, so with a frozen head
nothing is computed twice. With a trained head the chunk's logits are computed again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 256


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float
    ) -> Any:
        logps = states.new_empty(len(targets), dtype=torch.float32)
        entropy = torch.empty_like(logps)
        slope = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            z = _logits(states[part], weight, bias, scale)
            t = targets[part, None]
            norm = z.logsumexp(-1, keepdim=True)
            logps[part] = (z.gather(-1, t) - norm)[:, 0]
            p = z.sub(norm).exp_()
            entropy[part] = norm[:, 0] - (p * z).sum(-1)
            if slope is not None:
                slope[part] = (weight[t[:, 0]] - p.to(weight.dtype) @ weight) * scale
        ctx.save_for_backward(states, weight, bias, targets, slope)
        ctx.scale = scale
        ctx.mark_non_differentiable(entropy)
        return logps, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad = grads[0]
        states, weight, bias, targets, slope = ctx.saved_tensors
        grad_states = grad[:, None].to(slope.dtype) * slope if slope is not None else None
        need_weight, need_bias = ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2]
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        for start in range(0, len(targets) if need_weight or need_bias else 0, CHUNK):
            part = slice(start, start + CHUNK)
            g = _logits(states[part], weight, bias, ctx.scale).softmax(-1).neg_()
            g.scatter_add_(-1, targets[part, None], torch.ones_like(g[:, :1]))
            g = (g * grad[part, None] * ctx.scale).to(weight.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(g.T, states[part])
            if grad_bias is not None:
                grad_bias += g.sum(0)
        return grad_states, grad_weight, grad_bias, None, None


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    z = nn.functional.linear(states, weight, bias).float()
    return z if scale == 1.0 else z * scale


def token_logps(
    states: Tensor, head: nn.Linear, targets: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and the entropy of its distribution.

    Args:
        states: [C, D] hidden states.
        head: The output projection [V, D], with or without a bias.
        targets: [C] tokens.
        temperature: Divides the logits.

    Returns:
        logps [C] (differentiable), entropy [C] in nats (a measure, not differentiable).
    """
    out = _TokenLogps.apply(  # type: ignore[no-untyped-call]
        states, head.weight, head.bias, targets.to(states.device), 1.0 / temperature
    )
    return out[0], out[1]


def mean_logps(states: Tensor, head: nn.Linear, targets: Tensor, logps: Tensor) -> Tensor:
    """[C] mean of the log-probabilities over the vocabulary, from those of the targets (temperature 1).

        mean_v logp_cv = logp_c + mean_v z_cv - z_c[t_c]

    The logits enter linearly, so their mean is one product with the mean of the head's rows.

    Args:
        states: [C, D] hidden states.
        head: The output projection [V, D], with or without a bias.
        targets: [C] tokens.
        logps: [C] of `token_logps`, differentiable.
    """
    targets = targets.to(states.device)
    apart = head.weight.float().mean(0) - head.weight[targets].float()
    means = logps + (states.float() * apart).sum(-1)
    return means if head.bias is None else means + head.bias.float().mean() - head.bias[targets].float()
