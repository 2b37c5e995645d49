"""What a run leaves behind opens without Align, and merges into weights that answer the same."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.artifacts.store import Artifact, Store
from align.config.schema import TinyModel
from align.data.types import Response, TokenRow
from align.engine.batch import pack
from align.models.policy import load_causal
from align.models.reward_model import open_reward_model
from align.models.sources import materialise
from align.report.facts import StageFacts
from align.report.summary import _snippet
from align.run import main

PLAIN = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

policies, reward, talk = sys.argv[1].split(","), sys.argv[2], json.loads(sys.argv[3])
out = {"policies": []}
for folder in policies:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained(folder).base_model_name_or_path)
    model = PeftModel.from_pretrained(base, folder)
    result = model.load_adapter(folder, adapter_name="again")
    pt = {"return_tensors": "pt", "return_dict": True}
    ids = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, **pt)
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)
    out["policies"].append({
        "missing": [k for k in result.missing_keys if "again" in k], "unexpected":
        list(result.unexpected_keys), "prompt": ids["input_ids"][0].tolist(), "answer": answer[0,
        ids["input_ids"].shape[1]:].tolist(),
    })
config = AutoConfig.from_pretrained(reward)
tokenizer = AutoTokenizer.from_pretrained(reward)
base = PeftConfig.from_pretrained(reward).base_model_name_or_path
model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
model = PeftModel.from_pretrained(model, reward).eval()
talks = (talk, [talk[0], {"role": "assistant", "content": "No."}])
texts = [tokenizer.apply_chat_template(t, tokenize=False) for t in talks]
batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
with torch.no_grad():
    out["scores"] = model(**batch).logits[:, 0].tolist()
out["align"] = sorted(m for m in sys.modules if m == "align" or m.startswith("align."))
print(json.dumps(out))
"""
TALK = [
    {"role": "user", "content": "How do I boil an egg?"},
    {"role": "assistant", "content": "Put it into hot water."},
]


@torch.no_grad()
def test_plain_transformers_and_peft_open_every_artifact(stages: dict[str, Artifact], tmp_path: Path) -> None:
    policies = [stages["sft"].path, stages["ppo"].path]
    command = [
        sys.executable,
        "-c",
        PLAIN,
        ",".join(map(str, policies)),
        str(stages["reward"].path),
        json.dumps(TALK),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["align"] == [], "the script must not need Align"
    base = materialise(TinyModel(kind="tiny"))
    reward = open_reward_model(stages["reward"], base, "chatml")
    t = reward.template
    for policy in out["policies"]:
        assert (policy["missing"], policy["unexpected"]) == ([], [])
        assert policy["answer"]
    prompt = out["policies"][0]["prompt"]
    answers = [t.encode_answer(text) for text in (TALK[1]["content"], "No.")]
    row = TokenRow("a", tuple(prompt), tuple(Response(tuple(a), (1.0,) * len(a)) for a in answers))
    assert out["scores"] == pytest.approx(reward.scores(pack([row])).tolist(), rel=1e-5, abs=1e-5)


def test_the_line_that_the_summary_prints_runs(stages: dict[str, Artifact], tmp_path: Path) -> None:
    """The tiny base model has no chat template of its own, so the artifact's must be what is used."""
    line = _snippet(StageFacts("ppo", "ppo", "key", (), stages["ppo"].path.resolve(), 1.0))
    python, flag, code = shlex.split(line, comments=True)
    assert (python, flag) == ("python", "-c")
    command = [sys.executable, flag, code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "'role': 'assistant'" in done.stdout


@torch.no_grad()
@pytest.mark.parametrize("name", ["ppo", "reward"])
def test_export_merges_into_the_same_answers(
    runs: Path, stages: dict[str, Artifact], tmp_path: Path, name: str
) -> None:
    to = tmp_path / "merged"
    assert main([f"export={name}", f"to={to}", "merge=true", f"runs={runs}"]) == 0
    assert not (to / "adapter_config.json").exists()
    assert AutoTokenizer.from_pretrained(to).chat_template
    ids = torch.tensor([[5, 9, 30, 31, 2]])
    base = materialise(TinyModel(kind="tiny"))
    if name == "ppo":
        from align.models.policy import open_policy

        policy = open_policy(stages["ppo"], base, "chatml", None)
        want, got = (
            policy.plain(input_ids=ids).logits,
            AutoModelForCausalLM.from_pretrained(to)(input_ids=ids).logits,
        )
        assert not torch.allclose(want, load_causal(base)(input_ids=ids).logits, atol=1e-4), (
            "the adapter does something"
        )
    else:
        from transformers import AutoModelForSequenceClassification

        opened = AutoModelForSequenceClassification.from_pretrained(to)
        want = open_reward_model(stages["reward"], base, "chatml").plain(input_ids=ids).logits
        got = opened(input_ids=ids).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_an_export_to_where_nothing_can_be_written_is_one_line(
    runs: Path, stages: dict[str, Artifact], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export=ppo", "to=/proc/nope", f"runs={runs}"]) == 4
    err = capsys.readouterr().err
    assert err == "/proc/nope: cannot be made there; give another folder\n"


def test_the_adapters_config_does_not_depend_on_the_process(stages: dict[str, Artifact]) -> None:
    targets = json.loads((stages["ppo"].path / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)
    assert len(targets) > 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["export=nothing", "to={to}"],
            "export=nothing: is neither an artifact's folder nor a stage that has run",
        ),
        (
            ["export=eval", "to={to}"],
            "export=eval: is an artifact of kind evaluation; export a policy or a reward",
        ),
        (["export=ppo", "to={tmp}"], "to={tmp}: exists; give a folder that does not"),
        (["export=p*", "to={to}"], "export=p*: is neither an artifact's folder nor a stage that has run"),
    ],
)
def test_exports_that_cannot_be(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    names = {"to": tmp_path / "new", "tmp": tmp_path}
    assert main([*(a.format(**names) for a in arguments), f"runs={runs}"]) == 2
    assert line.format(**names) in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_every_stage_wrote_what_the_report_reads(stages: dict[str, Artifact], runs: Path) -> None:
    assert set(stages) == {"sft", "reward", "ppo", "eval"}
    for artifact in stages.values():
        summary = json.loads((artifact.path / "summary.json").read_text())
        assert summary["kind"] == artifact.manifest.ingredients.get("kind", summary["kind"])
    rows = [json.loads(line) for line in (stages["ppo"].path / "metrics.jsonl").read_text().splitlines()]
    assert {
        "objective/kl",
        "objective/scores",
        "policy/clipfrac",
        "val/explained_var",
        "grad_norm/critic",
    } <= set(rows[0])
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-3), "the first round is the reference's"
    assert rows[0]["policy/ratio"] == pytest.approx(1.0, abs=0.05)
    assert not any("time" in name or "seconds" in name for row in rows for name in row)
    assert Store(runs / "artifacts").by_stage("sft", "policy")
    assert (next(runs.glob("smoke-*")) / "report.html").exists()
