from __future__ import annotations

import pytest

from benchmarks.flops import Sizes, sampled, sizes, useful
from benchmarks.rows import Row

MODEL = Sizes(blocks=1000, head=50)
# 3 + 2 + 4 = 9 unique tokens, of which 2 + 3 are scored
ROW = Row("a", (1, 2, 3), ((4, 2), (5, 6, 7, 2)), ((1.0, 1.0), (1.0, 1.0, 1.0, 0.0)), (0, 1))


@pytest.mark.parametrize(
    ("stage", "adapter", "reference", "expected"),
    [
        ("sft", "full", False, 6 * 1000 * 9 + 6 * 50 * 5),
        ("sft", "lora", False, 4 * 1000 * 9 + 4 * 50 * 5),
        ("reward", "full", False, 6 * 1000 * 9),
        ("reward", "lora", False, 4 * 1000 * 9),
        ("dpo", "full", False, 6 * 1000 * 9 + 6 * 50 * 5),
        ("dpo", "full", True, 8 * 1000 * 9 + 8 * 50 * 5),
        ("dpo", "lora", True, 6 * 1000 * 9 + 6 * 50 * 5),
    ],
)
def test_useful_flops(stage: str, adapter: str, reference: bool, expected: float) -> None:
    assert useful(stage, adapter, MODEL, [ROW], reference=reference) == expected


def test_rows_add_up() -> None:
    other = Row("b", (1,), ((2,),), ((1.0,),))
    assert useful("sft", "full", MODEL, [ROW, other]) == 6 * 1000 * (9 + 2) + 6 * 50 * (5 + 1)


def test_the_last_token_of_a_sampled_answer_enters_no_forward() -> None:
    other = Row("b", (1,), ((2,),), ((1.0,),))
    # prompts of 3 and 1 tokens, 4 - 1 and 1 - 1 of the answers; a head for each of 5 tokens
    assert sampled(MODEL, [ROW, other], [[4, 5, 6, 2], [2]]) == 2 * 1000 * (4 + 3) + 2 * 50 * 5


def test_sizes_count_matrices_of_the_layers_and_one_embedding() -> None:
    shapes = {
        "model.embed_tokens.weight": [100, 8],
        "lm_head.weight": [100, 8],
        "model.layers.0.self_attn.q_proj.weight": [8, 8],
        "model.layers.1.mlp.up_proj.weight": [16, 8],
        "model.layers.1.input_layernorm.weight": [8],
        "model.norm.weight": [8],
    }
    assert sizes(shapes) == Sizes(blocks=64 + 128, head=800)


def test_sizes_of_a_checkpoint_with_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="names"):
        sizes({"weight": [3, 3]})
