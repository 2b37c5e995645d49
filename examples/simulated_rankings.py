"""Does PPO raise what people asked for, or only what the reward model likes?

With people the question has no exact answer. Here the "people" are a rule: they like plain sentences
(`plainness`), and rank the answers of a small model of children's stories by it. The reward model sees the
rankings only, PPO the reward model only; the rule, which neither of them knows, says what was gained.

    python examples/simulated_rankings.py --model FOLDER [--seed 0] [--runs runs/simulated] [KEY=VALUE ...]

FOLDER is a small base model of children's stories in Hugging Face's layout, such as stories260K of
karpathy/tinyllamas. KEY=VALUE changes a value of `recipe/simulated.yaml`, e.g. stages.ppo.kl_coef=0.05.
It takes two minutes on one thread.

1. Write openings of stories, made from lists of words, as prompts.
2. Sample eight answers to each from the base model, rate them by the rule, write them down as rankings.
3. Run the recipe: reward -> ppo -> eval.
4. Answer the held-out openings with the base model and with PPO's policy, and rate both by the rule.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from align import run as command
from align.artifacts import manifest
from align.config.base import SamplingOptions
from align.data import cards, tokenize
from align.evals.stats import Interval, paired_difference
from align.evals.text import words_of
from align.models.policy import load_causal, load_template
from align.rollout.ends import Ends
from align.rollout.generate import generate

NATURES = ("little", "big", "happy", "shy", "brave", "clever")
HEROES = ("dog", "cat", "boy", "girl", "bird", "bear", "mouse", "fish", "king", "frog")
SCENES = (
    "lived in a small house",
    "liked to play in the park",
    "had a red ball",
    "wanted a new friend",
    "went to the lake",
    "found a box under a tree",
)
ANSWERS = 8  # sampled for each opening
SAMPLING = SamplingOptions()
FRAGMENT, PLAIN, LONG = 3, 6, 13  # words of a sentence
STAGES = ("reward", "ppo", "eval")


def openings(count: int | None = None) -> list[str]:
    """First sentences of stories, all of them or `count` that are spread over the lists."""
    every = [
        f"Once upon a time, there was a {nature} {hero} who {scene}."
        for scene, hero, nature in itertools.product(SCENES, HEROES, NATURES)
    ]
    count = len(every) if count is None else count
    return [every[i * len(every) // count] for i in range(count)]


def plainness(text: str) -> float:
    """The rule: how plain the sentences are, from 0 to 1; every word counts as much as its sentence.

    A sentence counts 1 up to 6 words, then less by 1/7 for each further word, 0 from 13. It counts 0 if it
    has fewer than 3 words or was said before, so that neither scraps nor repetition pay. A sentence that was
    cut at the end counts as it stands.

    Example:
        >>> plainness("The cat ran. The cat ran. Oh!")  # 3 words of 7: the second sentence was said before
        0.42857142857142855
        >>> plainness("The dog had a red ball and ran home.")  # 9 words
        0.5714285714285714
    """
    said: set[tuple[str, ...]] = set()
    words = 0
    liked = 0.0
    for part in re.split("[.!?]", text):
        sentence = tuple(words_of(part))
        words += len(sentence)
        if len(sentence) >= FRAGMENT and sentence not in said:
            liked += len(sentence) * min(1.0, max(0.0, (LONG - len(sentence)) / (LONG - PLAIN)))
        said.add(sentence)
    return liked / words if words else 0.0


@dataclass(frozen=True)
class Story:
    """An opening with the answers of one model and what the rule says of each."""

    opening: str
    answers: list[str]
    ratings: list[float]

    @property
    def rating(self) -> float:
        """Mean over the answers."""
        return sum(self.ratings) / len(self.ratings)


def tell(model: Path, prompts: Path, part: Literal["train", "test"], seed: int) -> list[Story]:
    """Let a model answer the openings of one part of a file of prompts, and rate the answers."""
    template = load_template(model, None)
    data = cards.load(str(prompts), "prompts", part)
    rows = tokenize.prompts(data, template, max_prompt=64, max_drop=0.0).rows
    ends = Ends((template.eos_id,), decode=template.decode)
    rollouts = generate(load_causal(model).eval(), rows, SAMPLING, ends, seed=seed, samples=ANSWERS)
    # This model puts <s> behind a finished story and begins another; all that it writes is rated.
    texts = [ends.text(r).strip() for r in rollouts]
    groups = [texts[i * ANSWERS : (i + 1) * ANSWERS] for i in range(len(data))]
    return [
        Story(row.messages[-1].content, group, [plainness(text) for text in group])
        for row, group in zip(data, groups, strict=True)
    ]


def write_rankings(path: Path, stories: list[Story]) -> None:
    """The project's own JSONL: prompt, answers, ratings."""
    rows = ({"prompt": s.opening, "answers": s.answers, "ratings": s.ratings} for s in stories)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run_recipe(folder: Path, model: Path, runs: Path, seed: int, overrides: list[str]) -> dict[str, Path]:
    """Run the recipe with the usual command; returns the folder of each stage's artifact."""
    prompts = folder / "prompts.jsonl"
    code = command.main(
        [
            f"--config-dir={Path(__file__).parent}",
            "recipe=simulated",
            f"model.path={model}",
            f"seed={seed}",
            f"runs={runs}",
            f"stages.reward.data={folder / 'rankings.jsonl'}",
            f"stages.ppo.prompts={prompts}",
            f"stages.eval.prompts={prompts}",
            *overrides,
        ]
    )
    if code != 0:
        raise SystemExit(code)
    newest = max(runs.glob("simulated-*/stages/eval"), key=lambda link: link.lstat().st_mtime)
    return {name: (newest.parent / name).resolve() for name in STAGES}


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        quality: Of the reward model on held-out rankings, as its `summary.json` has it.
        before: Stories of the base model on the held-out openings.
        after: Those of PPO's policy, with the same random numbers.
        gain: Paired difference of their ratings over openings.
        kl: Nats that an answer is away from the base model, on the held-out openings.
        seconds: Part of the work -> seconds by the clock.
    """

    quality: dict[str, Any]
    before: list[Story]
    after: list[Story]
    gain: Interval
    kl: float
    seconds: dict[str, float]


def simulate(model: Path, runs: Path, seed: int, overrides: list[str], count: int | None = None) -> Outcome:
    """The four steps.

    Args:
        model: Folder of the base model.
        runs: Folder of runs and artifacts; the data is written there too.
        seed: Of all sampling and training.
        overrides: For the recipe.
        count: Openings; default: all.
    """
    torch.set_num_threads(1)
    began = time.monotonic()
    folder = runs / f"data-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    prompts = folder / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in openings(count)), encoding="utf-8"
    )
    before = tell(model, prompts, "test", seed)
    write_rankings(folder / "rankings.jsonl", [*tell(model, prompts, "train", seed), *before])
    seconds = {"sampling": time.monotonic() - began}
    made = run_recipe(folder, model, runs, seed, overrides)
    after = tell(made["ppo"], prompts, "test", seed)
    seconds |= {name: float(manifest.load(path).info.get("seconds", 0.0)) for name, path in made.items()}
    summary = {name: json.loads((path / "summary.json").read_text()) for name, path in made.items()}
    return Outcome(
        quality=summary["reward"]["quality"],
        before=before,
        after=after,
        gain=paired_difference([s.rating for s in after], [s.rating for s in before], seed=seed),
        kl=summary["eval"]["sources"]["prompts"]["rows"]["ppo"]["kl"],
        seconds=seconds,
    )


def show(outcome: Outcome) -> None:
    """Print a story before and after, and what was measured."""
    accuracy, others, gain = outcome.quality["accuracy"], outcome.quality["baselines"], outcome.gain
    before, after = (sum(s.rating for s in told) / len(told) for told in (outcome.before, outcome.after))
    print(f"\nopening       {outcome.before[0].opening}")
    print(f"base model    {outcome.before[0].answers[0]!r}")
    print(f"after PPO     {outcome.after[0].answers[0]!r}\n")
    print(f"reward model  {_percent(accuracy)} of held-out pairs in the rule's order", end="; ")
    print(f"length {_percent(others['length'])}, bag of words {_percent(others['bag_of_words'])}")
    print(f"true reward   {before:.2f} before, {after:.2f} after PPO", end=": ")
    print(f"{gain.mean:+.2f} [{gain.low:.2f}, {gain.high:.2f}]", end=" ")
    print(f"on {gain.n} held-out openings, {ANSWERS} answers each")
    print(f"KL            {outcome.kl:.1f} nats an answer of {SAMPLING.max_new_tokens} tokens")
    print(f"seconds       {', '.join(f'{name} {s:.0f}' for name, s in outcome.seconds.items())}", end="; ")
    print(f"the processor worked for {time.process_time():.0f} s")


def _percent(share: dict[str, Any]) -> str:
    return f"{100 * share['mean']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/simulated"), help="where everything is written"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes a value of the recipe")
    given = parser.parse_args(arguments)
    show(simulate(given.model, given.runs, given.seed, given.overrides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
