"""Bad recipe files: each gets its one line, exit code 2 and no traceback.

Every case is a file and the exact lines that a person reads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from align.config.losses import LOSSES

SFT = "stages:\n  sft:\n    kind: sft\n    data: talks\n"  # key 5 of the stage stands in line 5
DPO = SFT.replace("sft", "dpo")
THREE = (
    "stages:\n"
    "  sft: {kind: sft, data: talks}\n"
    "  rm: {kind: reward, model: sft, data: rankings}\n"
    "  ppo: {kind: rl, policy: sft, reward: rm, prompts: talks}\n"
)
LR = "give a number above 0 and below 1"
AT = "my/recipe/mine.yaml"

# (name, recipe, the lines that are shown)
FILES: list[tuple[str, str | bytes, list[str]]] = [
    # 1: unknown keys
    (
        "unknown key",
        f"{SFT}    epoch: 1\n",
        [f"{AT}:5: stages.sft.epoch: no such key; did you mean stages.sft.epochs?"],
    ),
    (
        "key of another project",
        f"{SFT}    learing_rate: 1\n",
        [f"{AT}:5: stages.sft.learing_rate: no such key; did you mean stages.sft.lr?"],
    ),
    (
        "unknown key at the top",
        f"{SFT}foo: 1\n",
        [f"{AT}:5: foo: no such key; align keys= lists those there are"],
    ),
    (
        "loss of another name",
        DPO + "    loss: sigmod\n",
        [f"{AT}:5: stages.dpo.loss: 'sigmod' is not a loss; did you mean sigmoid?"],
    ),
    (
        "loss under TRL's key",
        DPO + "    loss_type: ipo\n",
        [f"{AT}:5: stages.dpo.loss_type: no such key; did you mean stages.dpo.loss?"],
    ),
    (
        "several losses, one of another name",
        DPO + "    loss: {sigmoid: 1.0, nil: 0.2}\n",
        [f"{AT}:5: stages.dpo.loss: 'nil' is not a loss; choose one of {', '.join(LOSSES)}"],
    ),
    (
        "weight of a loss that is no number",
        DPO + "    loss: {sigmoid: much}\n",
        [f"{AT}:5: stages.dpo.loss.sigmoid: 'much' is not a number; give a number above 0"],
    ),
    (
        "weight of a loss out of range",
        DPO + "    loss: {sigmoid: -1}\n",
        [f"{AT}:5: stages.dpo.loss.sigmoid: -1 is out of range; give a number above 0"],
    ),
    (
        "no loss at all",
        DPO + "    loss: {}\n",
        [f"{AT}:5: stages.dpo.loss: names no loss; give sigmoid, or {{sigmoid: 1.0, nll: 0.2}}"],
    ),
    # 2: wrong types
    ("text for a number", f"{SFT}    lr: abc\n", [f"{AT}:5: stages.sft.lr: 'abc' is not a number; {LR}"]),
    ("quoted number", f"{SFT}    lr: '1e-5'\n", [f"{AT}:5: stages.sft.lr: '1e-5' is not a number; {LR}"]),
    (
        "half a step",
        f"{SFT}    batch_size: 1.5\n",
        [f"{AT}:5: stages.sft.batch_size: 1.5 is not a whole number; give a whole number at least 1"],
    ),
    ("true for a number", f"{SFT}    lr: true\n", [f"{AT}:5: stages.sft.lr: true is not a number; {LR}"]),
    (
        "number for data",
        SFT.replace("talks", "5"),
        [
            f"{AT}:4: stages.sft.data: 5 is not the name of data; "
            "give a card, a file, {card: ..., path: ...} or a list of these"
        ],
    ),
    (
        "wrong key within a list of data",
        SFT.replace("talks", "[a, {crad: b}]"),
        [f"{AT}:4: stages.sft.data.1.crad: no such key; did you mean stages.sft.data.1.card?"],
    ),
    (
        "no such choice",
        f"{SFT}    schedule: linaer\n",
        [f"{AT}:5: stages.sft.schedule: 'linaer' is not a choice; did you mean linear?"],
    ),
    (
        "no such kind",
        "stages:\n  a: {kind: sftt, data: x}\n",
        [f"{AT}:2: stages.a.kind: 'sftt' is not a kind; did you mean sft?"],
    ),
    (
        "missing key",
        "stages:\n  a: {kind: sft}\n",
        [
            f"{AT}:2: stages.a.data: is missing; "
            "give a card, a file, {card: ..., path: ...} or a list of these (conversations, or plain texts)"
        ],
    ),
    # 3: out of range
    ("negative", f"{SFT}    lr: -1\n", [f"{AT}:5: stages.sft.lr: -1 is out of range; {LR}"]),
    ("not finite", f"{SFT}    lr: .nan\n", [f"{AT}:5: stages.sft.lr: nan is not a finite number; {LR}"]),
    ("infinite", f"{SFT}    lr: .inf\n", [f"{AT}:5: stages.sft.lr: inf is not a finite number; {LR}"]),
    (
        "no batch",
        f"{SFT}    batch_size: 0\n",
        [f"{AT}:5: stages.sft.batch_size: 0 is out of range; give a whole number at least 1"],
    ),
    (
        "several at once",
        THREE + "  d:\n    kind: dpo\n    data: x\n    beta: 0\n    label_smoothing: 0.5\n    frob: -0.2\n",
        [
            f"{AT}:8: stages.d.beta: 0 is out of range; give a number above 0 and at most 10",
            f"{AT}:9: stages.d.label_smoothing: 0.5 is out of range; give a number at least 0 and below 0.5",
            f"{AT}:10: stages.d.frob: no such key; align keys= lists those there are",
        ],
    ),
    # 4: what YAML reads otherwise than it looks
    ("no", SFT + "    model: no\n", [f"{AT}:5: stages.sft.model: YAML read `no` as False; quote it: 'no'"]),
    (
        "off for a number",
        f"{SFT}    warmup: off\n",
        [
            f"{AT}:5: stages.sft.warmup: YAML read `off` as False, which is not a number; "
            "give a number at least 0 and below 1"
        ],
    ),
    (
        "octal",
        f"{SFT}    batch_size: 010\n",
        [f"{AT}:5: stages.sft.batch_size: YAML read `010` as 8; write 8, or quote it"],
    ),
    (
        "base 60",
        f"{SFT}    epochs: 12:30\n",
        [f"{AT}:5: stages.sft.epochs: YAML read `12:30` as 750; write 750, or quote it"],
    ),
    (
        "on as a name",
        "stages:\n  sft: {kind: sft, data: x}\n  on: {kind: sft, data: x}\n",
        [f"{AT}:3: stages.on: is not text for YAML; quote it, or choose another name"],
    ),
    # 5: duplicates
    (
        "duplicate key",
        f"{SFT}    lr: 0.1\n    lr: 0.2\n",
        [f"{AT}:6: stages.sft.lr: stands twice, in line 5 and in line 6; keep one"],
    ),
    # 6: bombs
    (
        "alias bomb",
        "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
        [f"{AT}: its aliases stand for more than 5000 values; write it without aliases"],
    ),
    (
        "within itself",
        "a: &a [*a]\n",
        [f"{AT}: its aliases stand for more than 5000 values; write it without aliases"],
    ),
    ("deep", "a: " + "[" * 2000 + "]" * 2000, [f"{AT}:1: nested more than 32 deep; a recipe is flat"]),
    (
        "long",
        "".join(f"k{i}: 1\n" for i in range(20000)),
        [f"{AT}:5000: more than 5000 values; data has files of its own"],
    ),
    # 7: Python
    (
        "tag",
        f"{SFT}    lr: !!python/object/apply:os.system [touch x]\n",
        [f"{AT}:5: stages.sft.lr: the tag !!python/object/apply:os.system is refused; write a plain value"],
    ),
    *(
        (
            name,
            f"{SFT}    {name}: os.system\n",
            [
                f"{AT}:5: stages.sft.{name}: a recipe never names Python code; "
                "name a component that Align knows"
            ],
        )
        for name in ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
    ),
    # 8: interpolation and secrets
    (
        "environment",
        f"{SFT}    model: ${{oc.env:SECRET}}\n",
        [
            f"{AT}:5: stages.sft.model: ${{oc.env:SECRET}} is not looked up; "
            "only ${another.key} is; write the value itself"
        ],
    ),
    (
        "environment within a text",
        f"{SFT}    model: a/${{oc.decode:${{oc.env:SECRET}}}}\n",
        [
            f"{AT}:5: stages.sft.model: ${{oc.decode:${{oc.env:SECRET}} is not looked up; "
            "only ${another.key} is; write the value itself"
        ],
    ),
    (
        "unknown resolver",
        f"{SFT}    model: ${{foo:1}}\n",
        [
            f"{AT}:5: stages.sft.model: ${{foo:1}} is not looked up; only ${{another.key}} is; "
            f"write the value itself"
        ],
    ),
    (
        "circle of values",
        f"{SFT}    lr: ${{stages.sft.warmup}}\n    warmup: ${{stages.sft.lr}}\n",
        [
            f"{AT}:5: stages.sft.lr: ${{stages.sft.warmup}} leads back to itself; "
            f"write the value in one of the places",
            f"{AT}:6: stages.sft.warmup: ${{stages.sft.lr}} leads back to itself; "
            f"write the value in one of the places",
        ],
    ),
    (
        "within itself by value",
        f"{SFT}    model: ${{stages}}\n",
        [f"{AT}:5: stages.sft.model: ${{stages}} leads back to itself; write the value in one of the places"],
    ),
    (
        "no such key to copy",
        f"{SFT}    lr: ${{nope.lr}}\n",
        [f"{AT}:5: stages.sft.lr: ${{nope.lr}} names no key; write it as ${{stages.sft.lr}}, from the top"],
    ),
    (
        "still to be given",
        f"{SFT}    lr: ???\n",
        [f"{AT}:5: stages.sft.lr: is missing; give a value"],
    ),
    (
        "secret",
        f"{SFT}    hf_token: hf_abcdef\n",
        [
            f"{AT}:5: stages.sft.hf_token: looks like a secret, which a recipe never holds; "
            "set an environment variable such as HF_TOKEN instead"
        ],
    ),
    # 9, 10: the graph
    (
        "no such stage",
        THREE.replace("reward: rm", "reward: rmm"),
        [f"{AT}:4: stages.ppo.reward: no stage is called 'rmm'; did you mean rm?"],
    ),
    (
        "PPO without a reward model",
        "stages:\n  ppo: {kind: rl, policy: base, reward: rm, prompts: x}\n",
        [f"{AT}:2: stages.ppo.reward: no stage is called 'rm'; add the stage: reward (kind: reward) -> ppo"],
    ),
    (
        "circle of stages",
        "stages:\n  a: {kind: sft, model: b, data: x}\n  b: {kind: sft, model: a, data: x}\n",
        [f"{AT}:2: stages.a: the stages go in a circle: a -> b -> a; let one of them read base"],
    ),
    (
        "DPO fed by a reward model",
        THREE + "  dpo: {kind: dpo, model: rm, data: x}\n",
        [
            f"{AT}:5: stages.dpo.model: stage 'dpo' (kind dpo) wants a policy, "
            "and stage 'rm' (kind reward) makes a reward; choose sft, ppo"
        ],
    ),
    (
        "base as a reward model",
        THREE.replace("reward: rm", "reward: base"),
        [f"{AT}:4: stages.ppo.reward: stage 'ppo' wants a reward, and 'base' is a policy; choose rm"],
    ),
    (
        "stage called base",
        "stages:\n  base: {kind: sft, data: x}\n",
        [f"{AT}:2: stages.base: 'base' is the name of the base model; give the stage another name"],
    ),
    (
        "stage with a path for a name",
        "stages:\n  a/b: {kind: sft, data: x}\n",
        [f"{AT}:2: stages.a/b: 'a/b' cannot name a stage; use a-z, 0-9 and _, a letter first"],
    ),
    # 11: contradictions
    (
        "minibatches",
        THREE.replace("prompts: talks", "prompts: talks, minibatches: 5"),
        [
            f"{AT}:4: stages.ppo: minibatches 5 does not divide "
            "prompts_per_iteration x samples_per_prompt = 16; try 4"
        ],
    ),
    (
        "one answer per round",
        THREE.replace("prompts: talks", "prompts: talks, prompts_per_iteration: 1, minibatches: 1"),
        [f"{AT}:4: stages.ppo: one answer per round has no spread to normalise by; give at least 2"],
    ),
    (
        "longer than the model",
        f"defaults:\n  - override /model: tiny\n{SFT}    max_prompt: 1024\n",
        [
            f"{AT}:7: stages.sft.max_prompt: 1024 and stages.sft.max_answer=512 are more than the model's "
            "1024 tokens; try stages.sft.max_prompt=512 stages.sft.max_answer=512"
        ],
    ),
    # 12: encodings and syntax
    ("tab", "stages:\n\tsft: {}\n", [f"{AT}:2:1: a tab; indent with spaces"]),
    ("tab after a colon", "stages:\n  sft:\t{}\n", [f"{AT}:2:7: a tab; separate with spaces"]),
    ("Latin-1", b"stages:\n  # \xe4\n", [f"{AT}:2:5: byte 0xe4 is not UTF-8; save the file as UTF-8"]),
    (
        "UTF-16",
        "stages: {}\n".encode("utf-16"),
        [f"{AT}:1:1: byte 0xff is not UTF-8; save the file as UTF-8"],
    ),
    ("control character", "a: \x01\n", [f"{AT}:1:4: the character U+0001 is not allowed in YAML; remove it"]),
    (
        "brackets",
        "stages: [1,\n",
        [
            f"{AT}:2:1: not YAML: expected the node content, but found '<stream end>'; "
            "check quotes, brackets and indentation"
        ],
    ),
    ("list", "- a\n", [f"{AT}:1: no keys; write key: value"]),
    ("empty", "", [f"{AT}: stages: is missing; give a mapping"]),
    # 14: versions
    (
        "another version",
        f"version: 2\n{SFT}",
        [f"{AT}:1: version: recipes of version 2 are not read, only version 1; write it anew"],
    ),
    # what belongs elsewhere
    (
        "Hydra's part",
        f"{SFT}hydra: {{run: {{dir: x}}}}\n",
        [f"{AT}:5: hydra: is Hydra's own; give it on the command line"],
    ),
    (
        "no such model",
        f"defaults:\n  - override /model: tinyy\n{SFT}",
        [f"{AT}:2: there is no model 'tinyy'; did you mean tiny?"],
    ),
]


@pytest.mark.parametrize(("content", "lines"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_bad_file(
    try_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, content: str | bytes, lines: list[str]
) -> None:
    monkeypatch.setenv("SECRET", "do-not-print-me")
    outcome = try_recipe(content)
    assert outcome.errors == lines
    assert outcome.code == 2
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    assert "do-not-print-me" not in outcome.err


def test_two_recipes_of_the_same_name(folder: Path, command: Callable[..., Any]) -> None:
    (folder / "my" / "recipe" / "smoke.yaml").write_text(SFT)
    outcome = command("recipe=smoke", "--config-dir", "my")
    assert outcome.errors == [
        "align/recipes/recipe/smoke.yaml and my/recipe/smoke.yaml: both are recipe/smoke; rename yours"
    ]
    assert outcome.code == 2


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf" + SFT.encode(), SFT.replace("\n", "\r\n").encode()],
    ids=["byte order mark", "CRLF"],
)
def test_harmless_encodings_are_read(try_recipe: Callable[..., Any], content: bytes) -> None:
    assert try_recipe(content).code == 0


def test_yaml_booleans_where_booleans_are_meant(try_recipe: Callable[..., Any]) -> None:
    outcome = try_recipe(THREE.replace("prompts: talks", "prompts: talks, whiten: no"))
    assert outcome.code == 0
    assert "whiten: false" in outcome.out
