"""The padded forward and the chunked head against plain transformers and full logits."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from align.data.types import Response, TokenRow
from align.engine import head as head_module
from align.engine.batch import Budget, TokenBatch, by_row, cut, microbatches, pack
from align.engine.forward import states
from align.engine.head import Measure, logits_of, mean_logps, token_logps


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def row(name: str, prompt: list[int], *responses: tuple[list[int], list[float]]) -> TokenRow:
    return TokenRow(name, tuple(prompt), tuple(Response(tuple(i), tuple(w)) for i, w in responses))


ROWS = [
    row("a", [5, 6, 7], ([8, 9, 2], [1, 1, 1]), ([10, 2], [1, 0])),
    row("b", [11], ([12, 13, 14, 15, 2], [0, 0, 1, 0.5, 1])),
]


def test_pack_lays_out_a_trie_by_hand() -> None:
    batch = pack(ROWS)
    assert batch.ids.tolist() == [5, 6, 7, 8, 9, 2, 10, 2, 11, 12, 13, 14, 15, 2]
    assert batch.spans.tolist() == [[0, 3, 3, 6], [0, 3, 6, 8], [8, 9, 9, 14]]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.lengths.tolist() == [6, 5, 6]
    assert batch.scored_in.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert batch.scored_at.tolist() == [2, 3, 4, 2, 2, 3, 4]
    assert batch.targets.tolist() == [8, 9, 2, 10, 14, 15, 2]
    assert batch.weights.tolist() == [1, 1, 1, 1, 1, 0.5, 1]
    assert pack(ROWS, score_all=True).targets.tolist() == [8, 9, 2, 10, 2, 12, 13, 14, 15, 2]


def test_logps_equal_transformers_on_each_sequence_alone(model: LlamaForCausalLM) -> None:
    batch = pack(ROWS, score_all=True)
    scored = states(model.model, batch).scored
    got, entropy = token_logps(scored, model.lm_head, batch.targets, measure="entropy")
    again, squares = token_logps(scored, model.lm_head, batch.targets, measure="log_squares")
    want, want_entropy, want_squares = [], [], []
    for r in ROWS:
        for response in r.responses:
            ids = torch.tensor([list(r.prompt) + list(response.ids)])
            logps = model(ids).logits[0].log_softmax(-1)
            for i, token in enumerate(response.ids):
                line = logps[len(r.prompt) + i - 1]
                want.append(line[token])
                want_entropy.append(torch.distributions.Categorical(logits=line).entropy())
                want_squares.append(line.softmax(-1).square().sum().log())
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy, torch.stack(want_entropy), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(squares, torch.stack(want_squares), rtol=1e-5, atol=1e-6)
    assert torch.equal(again, got)


def test_last_state_is_that_of_the_last_real_token(model: LlamaForCausalLM) -> None:
    batch = pack(ROWS)
    got = states(model.model, batch).last
    for s, ids in enumerate([[5, 6, 7, 8, 9, 2], [5, 6, 7, 10, 2], [11, 12, 13, 14, 15, 2]]):
        torch.testing.assert_close(
            got[s], model.model(torch.tensor([ids])).last_hidden_state[0, -1], rtol=1e-5, atol=1e-6
        )


def test_other_sequences_change_nothing(model: LlamaForCausalLM) -> None:
    alone = states(model.model, pack(ROWS[:1])).scored
    together = states(model.model, pack(ROWS)).scored[: len(alone)]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("chunk", "measure"), [(3, None), (3, "entropy"), (3, "log_squares"), (256, None)])
def test_head_gradients_equal_autograd_on_full_logits(
    temperature: float, bias: bool, chunk: int, measure: Measure | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "CHUNK", chunk)
    torch.manual_seed(1)
    head = torch.nn.Linear(6, 17, bias=bias)
    h = torch.randn(7, 6, requires_grad=True)
    targets, weights = torch.randint(0, 17, (7,)), torch.randn(7)
    parameters = [h, *head.parameters()]
    got = torch.autograd.grad(
        (token_logps(h, head, targets, temperature=temperature, measure=measure)[0] * weights).sum(),
        parameters,
    )
    full = (head(h) / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    want = torch.autograd.grad((full * weights).sum(), parameters)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_cut_keeps_rows_whole_and_within_the_budget() -> None:
    rows = [row(str(n), [1] * n, ([2, 3], [1, 1]), ([2], [1])) for n in (1, 9, 3, 30, 2)]
    groups = cut(rows, Budget(24, padded=True))
    assert sorted(i for g in groups for i in g) == [0, 1, 2, 3, 4]
    assert groups == [[3], [1], [2, 4], [0]]
    for g in groups:
        if len(g) > 1:
            batch = pack([rows[i] for i in g])
            assert batch.sequences * int(batch.lengths.max()) <= 24


def test_a_stream_is_cut_into_few_parts_about_equally_full() -> None:
    # unique tokens: the prompt once, and 3 of two responses
    rows = [row(str(n), [1] * n, ([2, 3], [1, 1]), ([2], [1])) for n in (7, 5, 4, 3, 2)]
    assert [r.unique for r in rows] == [10, 8, 7, 6, 5]
    assert cut(rows, Budget(36)) == [[0, 1, 2, 3, 4]]
    assert cut(rows, Budget(20)) == [[0, 3], [1, 2, 4]], "10 + 6 and 8 + 7 + 5"
    assert cut(rows, Budget(19)) == [[0], [1, 4], [2, 3]], "two parts of 18 cannot be had, longest first"
    assert cut(rows, Budget(1)) == [[0], [1], [2], [3], [4]], "a row is never cut"
    assert cut([], Budget(9)) == []
    assert Budget(9, padded=True).halved() == Budget(4, padded=True)
    assert Budget(1).halved() == Budget(1)


@pytest.mark.parametrize("bias", [False, True])
def test_mean_over_the_vocabulary_and_its_gradients_equal_full_logits(bias: bool) -> None:
    torch.manual_seed(1)
    head, targets = torch.nn.Linear(8, 13, bias=bias), torch.tensor([3, 3, 0, 12])
    hidden = torch.randn(4, 8)
    found = []
    for ours in (True, False):
        x = hidden.clone().requires_grad_()
        head.zero_grad()
        if ours:
            means = mean_logps(x, head, targets, token_logps(x, head, targets)[0])
        else:
            means = head(x).log_softmax(-1).mean(-1)
        (means * torch.tensor([1.0, -2.0, 0.5, 3.0])).sum().backward()
        found.append([means.detach(), x.grad, *(p.grad.clone() for p in head.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_logits_beyond_the_reach_of_exp_are_no_overflow() -> None:
    """Logits 200, 0 and -200: e^200 is infinite in float32, the log-probs are not."""
    head = torch.nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[200.0], [0.0], [-200.0]])
    h, targets = torch.ones(3, 1, requires_grad=True), torch.tensor([0, 1, 2])
    measures: tuple[Measure, ...] = ("entropy", "log_squares")  # of a distribution that is certain
    for measure in measures:
        got, measured = token_logps(h, head, targets, measure=measure)
        assert measured is not None
        assert measured.tolist() == [0.0] * 3
        assert got.tolist() == [0.0, -200.0, -400.0]
        assert got.requires_grad
        assert not measured.requires_grad
    slopes = torch.autograd.grad(got.sum(), [h, head.weight])
    assert slopes[0].flatten().tolist() == [0.0, -200.0, -400.0]
    assert slopes[1].flatten().tolist() == [-2.0, 1.0, 1.0]


@pytest.mark.parametrize("place", [0, 1, 2], ids=["states", "weight", "bias"])
def test_what_learns_alone_gets_its_gradient(place: int) -> None:
    torch.manual_seed(1)
    head, h, targets = torch.nn.Linear(6, 17), torch.randn(4, 6), torch.tensor([3, 16, 0, 3])
    learns = [h, head.weight, head.bias][place]
    for tensor in (h, head.weight, head.bias):
        tensor.requires_grad_(tensor is learns)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    got = torch.autograd.grad((token_logps(h, head, targets)[0] * weights).sum(), learns)
    full = head(h).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(got, torch.autograd.grad((full * weights).sum(), learns), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 99])
@pytest.mark.parametrize("padded", [False, True])
def test_numbers_by_row_stand_in_the_rows_order_and_hold_no_graph(tokens: int, padded: bool) -> None:
    scale = torch.ones((), requires_grad=True)

    def read(batch: TokenBatch) -> torch.Tensor:
        return scale * batch.ids[batch.spans[:, 2]]

    found = by_row(ROWS[::-1], Budget(tokens, padded), read)  # the larger one, which is packed first, last
    assert [part.tolist() for part in found] == [[12.0], [8.0, 10.0]], "the first token of each answer"
    assert not any(part.requires_grad for part in found)


def test_micro_batches_score_every_token_where_that_is_asked() -> None:
    counts = {
        every: sum(len(batch.targets) for _, batch in microbatches(ROWS, Budget(1), score_all=every))
        for every in (False, True)
    }
    assert counts == {False: 7, True: 10}


def test_what_stands_before_each_prompt_counts_in_the_budget() -> None:
    rows = [row(str(n), [1, 1], ([2, 3], [1, 1])) for n in range(3)]
    assert len(cut(rows, Budget(12, padded=True))) == 1, "three rows of 4 tokens"
    assert len(cut(rows, Budget(12, padded=True, virtual=2))) == 2
    assert len(cut(rows, Budget(18, padded=True, virtual=2))) == 1, "of 6"
    assert Budget(9, virtual=2).halved() == Budget(4, virtual=2)


def test_a_head_in_bfloat16_rounds_its_logits_alone() -> None:
    """Sums over the vocabulary and gradients over the chunks are added up in float32."""
    torch.manual_seed(1)
    head = torch.nn.Linear(6, 17).bfloat16()
    h, targets = torch.randn(600, 6).bfloat16().requires_grad_(), torch.randint(0, 17, (600,))
    weights = torch.randn(600)
    parameters = [h, *head.parameters()]
    logps = token_logps(h, head, targets)[0]
    logits = (h @ head.weight.T).float() + head.bias.float()
    full = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(logps, full, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad((logps * weights).sum(), parameters)
    wide = [p.detach().float().requires_grad_() for p in parameters]
    full = torch.nn.functional.linear(*wide).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    want = torch.autograd.grad((full * weights).sum(), wide)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.bfloat16
        assert float((a.float() - b).norm()) <= 5e-3 * float(b.norm())


def test_every_answer_counts_in_a_padded_budget() -> None:
    rows = [row(str(n), [1, 1], ([2, 3], [1, 1]), ([2, 4], [1, 1])) for n in range(3)]  # 2 x 4 tokens each
    assert [len(cut(rows, Budget(tokens, padded=True))) for tokens in (12, 16, 24)] == [3, 2, 1]


@pytest.mark.parametrize("bias", [True, False])
def test_logits_of_more_states_than_a_chunk(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    monkeypatch.setattr(head_module, "CHUNK", 2)
    torch.manual_seed(0)
    head, few = torch.nn.Linear(4, 9, bias=bias), torch.randn(5, 4)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(few, head), head(few))
        half = logits_of(few.bfloat16(), head.bfloat16())
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, head(few.bfloat16()).float(), rtol=2e-2, atol=2e-2)
