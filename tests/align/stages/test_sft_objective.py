"""How tokens and rows weigh in the likelihood, by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.config.stages import SftOptions
from align.data import cards, tokenize
from align.data.template import ChatTemplate
from align.data.types import Response, TokenRow
from align.engine import flat
from align.engine.batch import Budget, microbatches, pack
from align.engine.noise import neftune
from align.models.policy import model_logps
from align.models.tiny import build_tokenizer
from align.stages.sft_objective import Likelihood

# By token: nll 1 2 | 6; of the first row the second token counts half.
ROWS = [
    TokenRow("a", (9,), (Response((1, 2), (1.0, 0.5)),), weight=1.0),
    TokenRow("b", (9,), (Response((6,), (1.0,)),), weight=3.0),
]


class Said:
    """A policy to which a token is as unlikely as its number says."""

    plain = SimpleNamespace()

    def logps(self, batch: Any) -> tuple[torch.Tensor, None]:
        return -batch.targets.float(), None

    def logps_and_means(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return -batch.targets.float(), -batch.targets.float() - 4


def loss(rows: list[TokenRow], tokens: int = 99, **given: Any) -> float:
    said: Any = Said()
    objective = Likelihood(said, SftOptions(kind="sft", data="x", **given), 0)
    total = sum(
        float(objective(batch, [rows[i] for i in group]).total)
        for group, batch in microbatches(rows, Budget(tokens))
    )
    return total / objective.count(rows)


@pytest.mark.parametrize("tokens", [99, 1])
def test_mean_over_tokens_or_over_sequences(tokens: int) -> None:
    plain = [ROWS[0], TokenRow("b", (9,), ROWS[1].responses)]
    assert loss(plain, tokens) == pytest.approx((1 + 0.5 * 2 + 6) / 2.5)
    assert loss(plain, tokens, normalise="sequence") == pytest.approx(((1 + 0.5 * 2) / 1.5 + 6) / 2)


@pytest.mark.parametrize("tokens", [99, 1])
def test_a_row_counts_as_often_as_its_weight(tokens: int) -> None:
    assert loss(ROWS, tokens) == pytest.approx((1 + 0.5 * 2 + 3 * 6) / 4.5)
    assert loss(ROWS, tokens, normalise="sequence") == pytest.approx(((1 + 0.5 * 2) / 1.5 + 3 * 6) / 4)


def test_label_smoothing_and_dft_reach_the_loss() -> None:
    assert loss(ROWS, label_smoothing=0.5) == pytest.approx(loss(ROWS) + 0.5 * 4)
    weighed = [n * float(torch.tensor(-float(n)).exp()) for n in (1, 2, 6)]
    want = (weighed[0] + 0.5 * weighed[1] + 3 * weighed[2]) / 4.5
    assert loss(ROWS, loss="dft") == pytest.approx(want)


def test_texts_in_one_batch_do_not_see_one_another(tmp_path: Path) -> None:
    """From files to log-probs: another text, as long, beside it changes no bit of a text's loss."""
    template = ChatTemplate(build_tokenizer(300), "chatml")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    assert flat.prepare(model.model)
    found = []
    for other in ("zyx" * 9, "uvw" * 9):
        path = tmp_path / "texts.jsonl"
        texts = ["Once upon a time", other, "The end of it"]
        path.write_text("".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(texts)))
        data, more = (cards.load(str(path), "conversations", part) for part in ("train", "test"))  # type: ignore[arg-type]
        data.rows = sorted([*data.rows, *more.rows], key=lambda row: row.id)
        rows = tokenize.conversations(data, template, max_prompt=32, max_answer=6, max_drop=0).rows
        batch = pack(rows)
        logps = model_logps(model, batch)[0].detach()
        names = [rows[int(i)].id.split("/")[1] for i in batch.rows[batch.scored_in]]
        found.append({n: logps[[name == n for name in names]] for n in "012"})
    before, after = found
    assert len(before["0"]) > 6, "several windows"
    assert len(before["1"]) == len(after["1"])
    assert not torch.equal(before["1"], after["1"])
    assert torch.equal(before["0"], after["0"])
    assert torch.equal(before["2"], after["2"])


def test_noise_on_embeddings_is_that_of_the_step_and_the_seed() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    policy: Any = SimpleNamespace(plain=model, logps=lambda batch: model_logps(model, batch))
    batch, found = pack(ROWS), []
    for seed, step in ((1, 0), (1, 7), (2, 7)):
        objective = Likelihood(policy, SftOptions(kind="sft", data="x", neftune_alpha=50.0), seed)
        objective.before(step, 0, ROWS, Budget(99))
        with neftune(model, batch, 50.0, seed, step):
            nlls = -model_logps(model, batch)[0].detach()
        want = float(nlls[0] + 0.5 * nlls[1] + 3 * nlls[2])  # the weights of ROWS
        found.append(float(objective(batch, ROWS).total.detach()))
        assert found[-1] == pytest.approx(want, rel=1e-6)
    assert len({round(x, 3) for x in found}) == 3
