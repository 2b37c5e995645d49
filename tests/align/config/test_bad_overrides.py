"""Bad overrides and command lines: each gets its one line, exit code 2 and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

SFT = "stages:\n  sft:\n    kind: sft\n    data: talks\n"  # key 5 of the stage stands in line 5
LR = "give a number above 0 and below 1"
SEED = f"give a whole number at least 0 and at most {2**63 - 1}"
AT = "my/recipe/mine.yaml"
RECIPES = (
    "best_of_n, dpo, dpo_listwise, grpo, iterative_dpo, kto, orpo, ppo, "
    "prompt_tuning, reinforce_pp, rejection_sampling, reward, rlhf, rloo, rlvr, sft, simpo, smoke"
)

# (name, overrides, the lines that are shown)
TYPED: list[tuple[str, list[str], list[str]]] = [
    (
        "unknown key",
        ["stages.sft.epoch=1"],
        ["stages.sft.epoch: no such key; did you mean stages.sft.epochs?"],
    ),
    ("added unknown key", ["+unknown.key=1"], ["unknown: no such key; align keys= lists those there are"]),
    (
        "another name",
        ["adapter.load_in_4bit=true"],
        ["adapter.load_in_4bit: no such key; did you mean adapter.quantize_base?"],
    ),
    (
        "4 bits of what learns",
        ["adapter=none", "adapter.quantize_base=nf4"],
        ["adapter.quantize_base: no such key; kind lora or dora has it"],
    ),
    (
        "4 bits of the model",
        ["model.load_in_4bit=true"],
        ["model.load_in_4bit: no such key; try adapter=lora, which has adapter.quantize_base"],
    ),
    ("8 bits", ["adapter.quantize_base=int8"], ["adapter.quantize_base: 'int8' is not a choice; give nf4"]),
    ("out of range", ["stages.sft.lr=-1"], [f"stages.sft.lr: -1 is out of range; {LR}"]),
    ("not finite", ["stages.sft.lr=nan"], [f"stages.sft.lr: nan is not a finite number; {LR}"]),
    ("wrong type", ["stages.sft.lr=abc"], [f"stages.sft.lr: 'abc' is not a number; {LR}"]),
    ("negative seed", ["seed=-1"], [f"seed: -1 is out of range; {SEED}"]),
    ("negative seed of a stage", ["stages.sft.seed=-5"], [f"stages.sft.seed: -5 is out of range; {SEED}"]),
    ("huge seed", [f"seed={2**63}"], [f"seed: {2**63} is out of range; {SEED}"]),
    (
        "no targets",
        ["adapter.targets=[]"],
        ["adapter.targets: [] is out of range; give text or a list of texts with at least 1"],
    ),
    (
        "too few tokens",
        ["stages.sft.tokens_per_microbatch=3"],
        ["stages.sft.tokens_per_microbatch: 3 is not taken; give a whole number at least 16 or auto"],
    ),
    (
        "mistyped stage",
        ["stages.stf.lr=0.1"],
        [
            "stages.stf: no stage is called 'stf', and there is no kind to make it one; "
            "did you mean stages.sft?"
        ],
    ),
    (
        "environment",
        ["stages.sft.model=${oc.env:SECRET}"],
        [
            "stages.sft.model: ${oc.env:SECRET} is not looked up; only ${another.key} is; "
            "write the value itself"
        ],
    ),
    (
        "Python",
        ["hydra.launcher._target_=os.system"],
        ["hydra.launcher._target_: a recipe never names Python code; name a component that Align knows"],
    ),
    (
        "Python within a value",
        ["stages.sft.data={card: {_target_: os.system}}"],
        [
            "stages.sft.data.card._target_: a recipe never names Python code; "
            "name a component that Align knows"
        ],
    ),
    (
        "secret",
        ["+api_key=abcdef"],
        [
            "api_key: looks like a secret, which a recipe never holds; "
            "set an environment variable such as HF_TOKEN instead"
        ],
    ),
    (
        "environment by way of Hydra",
        ["hydra.job.env_copy=[SECRET]"],
        [
            "hydra.job.env_copy: would write the environment into the configuration; "
            "set the variable where it is read"
        ],
    ),
    (
        "unchecked files",
        ["hydra.searchpath=[pkg://os]"],
        ["hydra.searchpath: files would be read that are not checked; give --config-dir DIR"],
    ),
    ("no such model", ["model=tinyy"], ["model: there is no model 'tinyy'; did you mean tiny?"]),
    (
        "several values",
        ["seed=1,2"],
        ["seed: 1,2 are several values; add -m for one run of each, or brackets for a list: key=[a,b]"],
    ),
    (
        "not a pair",
        ["frob"],
        [
            "'frob' is neither key=value nor a command; "
            "give key=value, or one of keys, explain, recipes, export"
        ],
    ),
    (
        "unreadable",
        ["seed=[1"],
        ["'seed' is not followed by a value that can be read; quote it: 'key=\"value\"'"],
    ),
    ("nameless stage", ["stage=rl"], ["stage: a stage needs a name; write +stage@stages.NAME=KIND"]),
    ("half a model", ["model.kind=tiny"], ["model.kind: a model is chosen as a whole; write model=NAME"]),
    (
        "heads",
        ["model=tiny", "model.heads=5"],
        [
            "model.heads: 5 heads do not cut model.hidden=32 into even parts; "
            "try model.heads=4 with model.hidden=32"
        ],
    ),
    (
        "mistyped flag",
        ["--cgf", "job"],
        ["unrecognized arguments: --cgf job; did you mean --cfg?"],
    ),
    (
        "pickle",
        ["--experimental-rerun", "x.pickle"],
        ["--experimental-rerun reads a pickle, which can run any code; give the command again"],
    ),
]


@pytest.mark.parametrize(("typed", "lines"), [case[1:] for case in TYPED], ids=[case[0] for case in TYPED])
def test_bad_override(
    try_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, typed: list[str], lines: list[str]
) -> None:
    monkeypatch.setenv("SECRET", "do-not-print-me")
    outcome = try_recipe(SFT, *typed)
    assert outcome.errors == [f"command line: {line}" for line in lines]
    assert outcome.code == 2
    assert outcome.out == ""
    assert "abcdef" not in outcome.err
    assert "do-not-print-me" not in outcome.err


def test_all_errors_come_at_once_and_are_counted(try_recipe: Callable[..., Any]) -> None:
    outcome = try_recipe(f"{SFT}    lr: -1\n", "stages.sft.epoch=1", "+stages.sft.hf_token=x", "seed=-1")
    assert outcome.err.splitlines() == [
        f"{AT}:5: stages.sft.lr: -1 is out of range; {LR}",
        "command line: stages.sft.hf_token: looks like a secret, which a recipe never holds; "
        "set an environment variable such as HF_TOKEN instead",
        "command line: stages.sft.epoch: no such key; did you mean stages.sft.epochs?",
        f"command line: seed: -1 is out of range; {SEED}",
        "4 errors, nothing was run. List keys: align keys=stages.sft",
    ]


def test_no_such_recipe_lists_what_there_is(command: Callable[..., Any]) -> None:
    assert command("recipe=rlfh").errors == [
        "command line: recipe: there is no recipe 'rlfh'; did you mean rlhf?"
    ]
    assert command("recipe=xyz").errors == [
        f"command line: recipe: there is no recipe 'xyz'; choose one of {RECIPES}"
    ]


def test_a_key_of_a_list_of_sources(command: Callable[..., Any]) -> None:
    assert command("recipe=smoke", "stages.sft.data.limit=5").errors == [
        "command line: 'limit' is a key of one source, and data is a list of them; "
        "name the source by its place, the first as in stages.sft.data.0.limit=..."
    ]


def test_no_recipe_lists_what_there_is(command: Callable[..., Any]) -> None:
    assert command("seed=1").errors == [
        f"command line: recipe: no recipe was chosen; give recipe=NAME, one of {RECIPES}"
    ]
