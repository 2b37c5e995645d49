"""What is meant by a key or value that there is not: names of TRL and peft, keys of other kinds, choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from align.config.fields import STAGES
from align.config.losses import LOSSES

SFT = "stages:\n  sft:\n    kind: sft\n    data: talks\n"  # key 5 of the stage stands in line 5
DPO = SFT.replace("sft", "dpo")
AT = "my/recipe/mine.yaml"


def line_of(try_recipe: Callable[..., Any], recipe: str, place: int) -> str:
    """The one error of a recipe, without its place, which is a line of the file."""
    (line,) = try_recipe(recipe).errors
    where, _, said = line.partition(": ")
    assert where == f"{AT}:{place}"
    return str(said)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("exo_pair", "exo"), ("bco_pair", "bco"), ("sppo_hard", "sppo"), ("sft", "nll")]
)
def test_losses_by_trl_s_names(try_recipe: Callable[..., Any], theirs: str, ours: str) -> None:
    said = line_of(try_recipe, f"{DPO}    loss: {theirs}\n", 5)
    assert said == f"stages.dpo.loss: {theirs!r} is not a loss; did you mean {ours}?"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("divergence", "js_divergence", "divergence: 'js_divergence' is not a choice; did you mean js?"),
        ("use_weighting", "true", "use_weighting: no such key; did you mean stages.dpo.wpo?"),
        ("torch_dtype", "bfloat16", "torch_dtype: no such key; did you mean hardware.dtype?"),
        ("margin", "0.5", "margin: no such key; kind reward has it"),
        ("loss", "5", f"loss: 5 is not taken; give one of {', '.join(LOSSES)} or a mapping"),
    ],
)
def test_keys_and_values_of_a_stage(try_recipe: Callable[..., Any], key: str, value: str, said: str) -> None:
    assert line_of(try_recipe, f"{DPO}    {key}: {value}\n", 5) == f"stages.dpo.{said}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("virtual_tokens: 5", "virtual_tokens: no such key; kind prompt_tuning or prefix_tuning has it"),
        ("use_rslora: true", "use_rslora: no such key; did you mean adapter.rslora?"),
        (
            "init: best",
            "init: 'best' is not a choice; "
            "give one of default, gaussian, orthogonal, pissa, pissa_niter_16, olora",
        ),
    ],
)
def test_keys_and_values_of_an_adapter(try_recipe: Callable[..., Any], options: str, said: str) -> None:
    assert line_of(try_recipe, f"adapter: {{kind: lora, {options}}}\n{SFT}", 1) == f"adapter.{said}"


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ("model: {dtype: bfloat16}", "model.dtype: no such key; did you mean hardware.dtype?"),
        ("dtype: bfloat16", "dtype: no such key; did you mean hardware.dtype?"),
        (
            "hardware: {torch_dtype: bfloat16}",
            "hardware.torch_dtype: no such key; did you mean hardware.dtype?",
        ),
        (
            "hardware: {dtype: fp16}",
            "hardware.dtype: 'fp16' is not a choice; give one of auto, float32, bfloat16",
        ),
    ],
)
def test_the_dtype(try_recipe: Callable[..., Any], top: str, said: str) -> None:
    assert line_of(try_recipe, f"{top}\n{SFT}", 1) == said


def test_an_option_of_fixed_rows_names_the_kinds_that_have_it(try_recipe: Callable[..., Any]) -> None:
    ppo = "stages:\n  ppo: {kind: rl, policy: base, reward: rm, prompts: x, max_answer: 5}\n"
    said = line_of(try_recipe, f"{ppo}  rm: {{kind: reward, data: x}}\n", 2)
    kinds = [kind for kind, options in STAGES.items() if "max_answer" in options.model_fields]
    assert {"sft", "dpo"} <= set(kinds)
    assert said == f"stages.ppo.max_answer: no such key; kind {' or '.join(kinds)} has it"
