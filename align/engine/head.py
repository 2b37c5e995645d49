"""Log-probabilities of given tokens without ever holding the [positions, vocabulary] logits.

    logp_c = z_c[t_c] - logsumexp(z_c),   z_c = (W h_c + b) / temperature
    d logp_c / d h_c = (W[t_c] - sum_v softmax(z_c)_v W[v]) / temperature

The second line needs one more product per chunk and then only [C, D] numbers are kept, so with a frozen head
nothing is computed twice. With a trained head the chunk's logits are computed again in the backward pass.
The entropy H_c = - sum_v p_v log p_v of each position may carry a gradient too, for an entropy bonus:

    d H_c / d h_c = - (sum_v p_v (log p_v + H_c) W[v]) / temperature

All chunks share one buffer, and all steps but the products are done in place: fresh memory of that size
costs more than the arithmetic. Exponentials are those of softmax, in place too: `exp_` is a call of MKL, the
first of which in a process on two threads was now and then off by 1e-4 in the part of one of them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

CHUNK = 256
Measure = Literal["entropy", "log_squares"]


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        measure: Measure | None,
        bonus: bool,
    ) -> Any:
        logps = states.new_empty(len(targets), dtype=torch.float32)
        measured = torch.empty_like(logps) if measure else None
        slope = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        bend = torch.empty_like(states) if bonus and slope is not None else None
        buffer, spare = _buffer(states, weight), _buffer(states, weight) if measure else None
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            z = _logits(states[part], weight, bias, scale, buffer)
            at = targets[part, None]
            chosen, top = z.gather(-1, at), z.amax(-1, keepdim=True)
            p = torch.softmax(z, -1, out=z if spare is None else spare[: len(z)])
            norm = top - p.amax(-1, keepdim=True).log()  # the likeliest token has p = e^(top - norm)
            logps[part] = (chosen - norm)[:, 0]
            if measured is not None:
                if measure == "entropy":
                    measured[part] = -z.sub_(norm).mul_(p).sum(-1)  # z becomes p log p
                else:
                    measured[part] = torch.mul(p, p, out=z).sum(-1).log()
            if bend is not None and measured is not None:
                bend[part] = (z.addcmul_(p, measured[part, None]).neg_().to(weight.dtype) @ weight) * scale
            if slope is not None:
                slope[part] = (weight[at[:, 0]] - p.to(weight.dtype) @ weight) * scale
        ctx.save_for_backward(states, weight, bias, targets, slope, bend, measured if bonus else None)
        ctx.scale = scale
        if measured is not None and not bonus:
            ctx.mark_non_differentiable(measured)
        return logps, measured

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad, grad_entropy = grads
        states, weight, bias, targets, slope, bend, entropy = ctx.saved_tensors
        grad_states = grad[:, None].to(slope.dtype) * slope if slope is not None else None
        if bend is not None:
            grad_states = grad_states + grad_entropy[:, None].to(bend.dtype) * bend
        need_weight, need_bias = ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2]
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        if not (need_weight or need_bias):
            return grad_states, None, None, None, None, None, None
        buffer = _buffer(states, weight)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            factor = grad[part, None] * ctx.scale
            g = _logits(states[part], weight, bias, ctx.scale, buffer)
            if entropy is None:
                torch.softmax(g, -1, out=g).mul_(-factor)
            else:
                rise = g.log_softmax(-1).add_(entropy[part, None]).mul_(grad_entropy[part, None] * ctx.scale)
                torch.softmax(g, -1, out=g).mul_(rise.add_(factor).neg_())
            g.scatter_add_(-1, targets[part, None], factor)
            if grad_weight is not None:
                grad_weight.addmm_(g.T, states[part].float())
            if grad_bias is not None:
                grad_bias += g.sum(0)
        return grad_states, _like(weight, grad_weight), _like(bias, grad_bias), None, None, None, None


def _like(parameter: Tensor | None, grad: Tensor | None) -> Tensor | None:
    return None if parameter is None or grad is None else grad.to(parameter.dtype)


def _buffer(states: Tensor, weight: Tensor) -> Tensor:
    """[CHUNK or all positions, V] in fp32."""
    return states.new_empty(min(CHUNK, len(states)), len(weight), dtype=torch.float32)


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, scale: float, buffer: Tensor) -> Tensor:
    z = buffer[: len(states)]
    if weight.dtype == z.dtype:
        torch.mm(states, weight.T, out=z)
    else:
        z.copy_(states @ weight.T)
    if bias is not None:
        z.add_(bias)
    return z if scale == 1.0 else z.mul_(scale)


def logits_of(states: Tensor, head: nn.Linear) -> Tensor:
    """[S, V] logits in float32 of states [S, D], which are few: for many, use `token_logps`."""
    whole = states.new_empty(len(states), len(head.weight), dtype=torch.float32)
    return _logits(states, head.weight, head.bias, 1.0, whole)


def token_logps(
    states: Tensor,
    head: nn.Linear,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    measure: Measure | None = None,
    bonus: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target, and a measure of its distribution where one is asked for.

    Args:
        states: [C, D] hidden states.
        head: The output projection [V, D], with or without a bias.
        targets: [C] tokens.
        temperature: Divides the logits.
        measure: `entropy` in nats, or `log_squares`: log sum_v p_v^2, where an average draw of the
            distribution stands.
        bonus: Let the entropy carry a gradient, at the price of a product more per chunk.

    Returns:
        logps [C] (differentiable); the measure [C] (differentiable only as a bonus), or None.

    Raises:
        ValueError: A bonus of another measure than entropy.
    """
    if bonus and measure != "entropy":
        raise ValueError("only the entropy carries a gradient")
    out = _TokenLogps.apply(  # type: ignore[no-untyped-call]
        states, head.weight, head.bias, targets.to(states.device), 1.0 / temperature, measure, bonus
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
