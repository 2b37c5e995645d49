"""Linear heads fitted on frozen features before anything else learns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from align.data.types import TokenRow
from align.engine.batch import Budget, TokenBatch, microbatches
from align.engine.forward import states
from align.models.critic import Critic
from align.models.reward_model import RewardModel

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 5


@torch.no_grad()
def features(reward: RewardModel, rows: Sequence[TokenRow], budget: Budget) -> list[Tensor]:
    """For each row [K, D]: the hidden states at its responses' EOS."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for group, batch in microbatches(rows, budget):
        last = states(reward.plain.base_model, batch).last.float()
        for i, part in zip(group, last.split([len(rows[i].responses) for i in group]), strict=True):
            found[i] = part
    return found


def fit_head(reward: RewardModel, rows: Sequence[TokenRow], budget: Budget) -> float:
    """Set the score head to the ridge-penalised Bradley-Terry fit on frozen features.

        min_w  1/B sum_prompts mean_pairs -log sigmoid(w (f_better - f_worse)) + ridge |w|^2

    in units of each feature's spread; the ridge is the one that predicts left-out prompts best (five folds).

    Returns:
        The ridge that was chosen.
    """
    # A row that is repeated to weigh more would stand on both sides of a fold.
    rows = list({(row.prompt, row.responses): row for row in rows}.values())
    feats = features(reward, rows, budget)
    spread = torch.cat(feats).std(0).clamp_min(1e-6)
    pairs = [_differences(f / spread, row.tiers) for f, row in zip(feats, rows, strict=True)]
    folds = [[p for i, p in enumerate(pairs) if i % FOLDS != k] for k in range(FOLDS)]
    left_out = [[p for i, p in enumerate(pairs) if i % FOLDS == k] for k in range(FOLDS)]
    errors = {
        r: sum(float(_loss(_fit(a, r), b)) for a, b in zip(folds, left_out, strict=True) if b) for r in RIDGES
    }
    ridge = min(errors, key=lambda r: errors[r])
    weight = _fit(pairs, ridge) / spread
    reward.set_head(weight)
    return ridge


@torch.no_grad()
def fit_values(critic: Critic, batches: Iterable[tuple[TokenBatch, Tensor]]) -> None:
    """Set a critic's head and offset to the ridge fit of observed returns on frozen features.

    A reward head is trained at EOS only; read in the middle of an answer it says little, and a critic that
    starts there is worse than a constant for many rounds.

        min_{w, b}  mean_c (w f_c + b - R_c)^2 + |w|^2     in units of each feature's spread

    Args:
        critic: Reads `states.scored`; afterwards its value is `w f + b`.
        batches: Batches with the return [C] of each scored token, in the critic's units.
    """
    pairs = [(critic.features(batch), returns) for batch, returns in batches]
    f, r = torch.cat([p[0] for p in pairs]).double(), torch.cat([p[1] for p in pairs]).double()
    centre, spread, level = f.mean(0), f.std(0).clamp_min(1e-6), r.mean()
    x = (f - centre) / spread
    gram = x.T @ x / len(x) + torch.eye(x.shape[1], dtype=x.dtype)
    w = torch.linalg.solve(gram, x.T @ (r - level) / len(x)) / spread
    critic.set_head(w, float(level - w @ centre))


def _differences(f: Tensor, tiers: Sequence[int]) -> Tensor:
    """[pairs, D] better minus worse, for all pairs of different tiers."""
    t = torch.tensor(tiers)
    better, worse = (t[:, None] < t[None, :]).nonzero(as_tuple=True)
    return f[better] - f[worse]


def _loss(w: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    return torch.stack([-nn.functional.logsigmoid(d @ w).mean() for d in pairs]).mean()


def _fit(pairs: Sequence[Tensor], ridge: float) -> Tensor:
    """Newton's method would need [D, D] solves; L-BFGS on a few hundred pairs takes well under a second."""
    stacked = torch.cat(list(pairs))
    weights = torch.cat([torch.full((len(d),), 1.0 / (len(d) * len(pairs))) for d in pairs])
    w = torch.zeros(stacked.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = -(weights * nn.functional.logsigmoid(stacked @ w)).sum() + ridge * (w @ w)
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    return w.detach()
