"""What a stage begins with, opened as its recipe says: template, adapter, seed and dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from align.artifacts.store import Artifact
from align.models.critic import Critic
from align.models.policy import Policy, open_policy
from align.models.reward_model import RewardModel, new_reward_model
from align.stages.base import StageContext, starting_point


def policy_from(ctx: StageContext[Any], start: Artifact | Path) -> Policy:
    """A policy to train, from an artifact or the base model's folder."""
    recipe = ctx.recipe
    return open_policy(start, ctx.base, recipe.model.template, recipe.adapter, ctx.seed, ctx.dtype)


def fresh_critic(ctx: StageContext[Any], start: Artifact | Path) -> Critic:
    """A critic on the weights of a policy, with a new head and, where the recipe has one, a new adapter."""
    recipe = ctx.recipe
    adapter = recipe.adapter
    model = new_reward_model(
        start, ctx.base, recipe.model.template, adapter, layers=None, seed=ctx.seed, dtype=ctx.dtype
    )
    return Critic(model, shared=False)


def fresh_reward_model(ctx: StageContext[Any]) -> RewardModel:
    """A reward model to train, from the policy that the options name, with so many of its layers."""
    recipe, o = ctx.recipe, ctx.options
    return new_reward_model(
        starting_point(ctx, o.model),
        ctx.base,
        recipe.model.template,
        recipe.adapter,
        layers=o.layers,
        seed=ctx.seed,
        dtype=ctx.dtype,
    )
