"""What may stand neither in a recipe nor on the command line."""

from __future__ import annotations

import pytest

from align.config.refuse import refuse_key, refuse_text, refuse_value


@pytest.mark.parametrize(
    "name",
    [
        "_target_",
        "_convert_",
        "token",
        "hf_token",
        "HF_TOKEN",
        "hfToken",
        "password",
        "api_key",
        "api-key",
        "wandb_api_key",
        "client_secret",
    ],
)
def test_refused_keys(name: str) -> None:
    assert refuse_key(name) is not None


@pytest.mark.parametrize(
    "name", ["tokens_per_microbatch", "max_new_tokens", "key", "target", "targets", "secretary", "lr"]
)
def test_harmless_keys(name: str) -> None:
    assert refuse_key(name) is None


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "a${oc.env:HOME}b",
        "${a.${b}}",
        "${now:%Y}",
        "${a.b} ${oc.decode:1}",
        "${",
        "${a",
        "${ }",
    ],
)
def test_refused_texts(text: str) -> None:
    assert refuse_text(text) is not None


@pytest.mark.parametrize(
    "text", ["", "plain", "$5", "{a}", "${seed}", "${stages.sft.lr}", "x ${a} y ${b.0}", "${.lr}"]
)
def test_harmless_texts(text: str) -> None:
    assert refuse_text(text) is None


def test_values_are_searched_to_the_bottom() -> None:
    value = {"a": [{"token": 1}, {"b": {"_args_": 2}}, "${oc.env:X}"], "c": "fine"}
    assert [finding.key for finding in refuse_value("k", value)] == ["k.a.0.token", "k.a.1.b._args_", "k.a.2"]
