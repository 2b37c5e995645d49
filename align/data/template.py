"""Chat templates: from turns to tokens, the same for training, scoring and generation.

A conversation is tokenised in pieces: the prompt up to where an answer starts, the answer up to its end token, what
stands between, the next answer. That is how tokens come about when a model answers, so training sees what
generation will see. Text of special tokens inside a turn (`<|im_end|>` typed by a person) is encoded as plain text.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.data.types import Message
from align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "templates"
PROBE = (Message("user", "Hello there."), Message("assistant", "Good day."), Message("user", "And now?"))


class ChatTemplate:
    """A tokenizer with the template that a policy is trained, scored and sampled with.

    Attributes:
        tokenizer: The tokenizer; its `chat_template` is set to the one in use.
        eos_id: The token that ends an answer: the first special token that the template puts behind one, else the
            tokenizer's EOS, which is then appended.
        pad_id: A token that pads and is never EOS: the tokenizer's pad if it differs from EOS, else its unk, else
            its bos, else any other special token.
        escaped: Spans of special-token text that were encoded as plain text so far.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> None:
        self.tokenizer: Any = tokenizer
        self.tokenizer.chat_template = _source(tokenizer, name)
        self.escaped = 0
        self._special = sorted(set(self.tokenizer.all_special_tokens), key=len, reverse=True)
        self._mark = f"\ue000{secrets.token_hex(4)}"
        self.eos_id, self._end = self._find_end()
        self.pad_id = self._find_pad()
        self.check()

    # --- tokens --------------------------------------------------------------------------------------------------

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to where the assistant's answer starts, BOS included where the template has one.

        Without any message: BOS, or EOS where there is none, since something must stand before the first token.
        """
        if not messages:
            return [self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.eos_id]
        self._count(messages)
        return self._encode(self._render(messages, True))

    def encode_answer(self, text: str) -> list[int]:
        """Tokens of an answer as they follow a prompt, EOS included."""
        self._count([Message("assistant", text)])
        return [*self._encode(self._escape(text) + self._end), *([] if self._end else [self.eos_id])]

    def encode_conversation(self, messages: Sequence[Message]) -> tuple[list[int], list[float]]:
        """Tokens of a whole conversation with their loss weights. A single assistant turn is plain text.

        Returns:
            ids, and weights of the same length: the turn's weight on an assistant's tokens and its EOS, else 0.
        """
        ids: list[int] = []
        weights: list[float] = []
        done = ""
        self._count([m for m in messages if m.role != "assistant"])
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opening = self._render(messages[:i], True) if i else ""
            between = self._encode(opening[len(done) :]) if i else self.encode_prompt(())
            answer = self.encode_answer(message.content)
            ids += [*between, *answer]
            weights += [*([0.0] * len(between)), *([message.weight] * len(answer))]
            done = opening + self._escape(message.content) + self._end
        return ids, weights

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special tokens are shown."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def save(self, folder: Path, pad_token_id: int | None = None) -> None:
        """Write the tokenizer with the template in use, and with another pad token where one is given."""
        before = self.tokenizer.pad_token
        if pad_token_id is not None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad_token_id)
        self.tokenizer.save_pretrained(folder)
        self.tokenizer.pad_token = before

    # --- checks --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The template used for training is the template used for generation.

        Raises:
            ConfigError: Turns rendered so far change when later ones are added, an answer does not follow its
                prompt, or BOS stands twice.
        """
        opening, answered = self._render(PROBE[:1], True), self._render(PROBE[:2], False)
        later = self._render(PROBE, False)
        if not answered.startswith(opening + PROBE[1].content) or not later.startswith(
            opening + PROBE[1].content + self._end
        ):
            raise ConfigError(
                "chat template",
                "an answer does not follow the prompt it is generated from (the template is not prefix-stable)",
                "choose another, e.g. model.template=chatml",
            )
        bos = self.tokenizer.bos_token_id
        ids = self.encode_prompt(PROBE[:1])
        if bos is not None and ids[:2] == [bos, bos]:
            raise ConfigError("chat template", "BOS stands twice at the start", "remove one from the template")

    def _find_end(self) -> tuple[int, str]:
        """EOS and the text that stands for it behind an answer ('' where the template writes none)."""
        opening, answered = self._render(PROBE[:1], True), self._render(PROBE[:2], False)
        tail = answered[answered.find(PROBE[1].content, len(opening)) + len(PROBE[1].content) :]
        found = [(tail.find(text), text) for text in self._special if text in tail]
        if found:
            at, text = min(found, key=lambda f: (f[0], -len(f[1])))
            return int(self.tokenizer.convert_tokens_to_ids(text)), tail[: at + len(text)]
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("tokenizer", "has no EOS, and the template ends an answer with none", "set eos_token")
        return int(self.tokenizer.eos_token_id), ""

    def _find_pad(self) -> int:
        t = self.tokenizer
        for candidate in (t.pad_token_id, t.unk_token_id, t.bos_token_id, *t.all_special_ids):
            if candidate is not None and candidate not in (self.eos_id, t.eos_token_id):
                return int(candidate)
        raise ConfigError("tokenizer", "has no special token besides EOS to pad with", "add a pad token")

    # --- text ----------------------------------------------------------------------------------------------------

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        turns = [{"role": m.role, "content": self._escape(m.content)} for m in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generation)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError("chat template", f"fails: {reason}", "choose another: model.template=chatml") from error
        return text

    def _count(self, messages: Sequence[Message]) -> None:
        self.escaped += sum(m.content.count(special) for m in messages for special in self._special)

    def _escape(self, text: str) -> str:
        """Put marks in place of special-token text, so that no template and no tokenizer takes it for the token."""
        for number, special in enumerate(self._special):
            text = text.replace(special, f"{self._mark}{number:03d}")
        return text

    def _encode(self, text: str) -> list[int]:
        """Tokens of rendered text; what was escaped is encoded as the plain text it was."""
        first, *rest = text.split(self._mark)
        ids = list(self.tokenizer(first, add_special_tokens=False)["input_ids"]) if first else []
        for piece in rest:
            special, text = self._special[int(piece[:3])], piece[3:]
            ids += self.tokenizer(special, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids += self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return ids


def _source(tokenizer: Any, name: str | None) -> str:
    """The text of the template: a named one, the tokenizer's own made fit for training, or `plain`."""
    if name is not None:
        path = FOLDER / f"{name}.jinja"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.jinja")))
            raise ConfigError("model.template", f"no template is called {name!r}", f"choose one of {known}")
        return path.read_text()
    if not tokenizer.chat_template:
        return (FOLDER / "plain.jinja").read_text()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from trl.chat_template_utils import get_training_chat_template

    try:
        patched = get_training_chat_template(tokenizer)
    except ValueError:  # no patch for this family: its own template serves where it is prefix-stable
        patched = None
    template = patched or tokenizer.chat_template
    return template["default"] if isinstance(template, dict) else template
