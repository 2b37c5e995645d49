"""Chat templates: from turns to tokens, the same for training, scoring and generation.

A conversation is tokenised in pieces: the prompt up to where an answer starts, the answer up to its end
token, what stands between, the next answer. That is how tokens come about when a model answers, so training
sees what generation will see. Text of special tokens inside a turn (`<|im_end|>` typed by a person) is text.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.data.types import Message
from align.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parent / "templates"
PROBE = (
    Message("user", "Hello there."),
    Message("assistant", "Good day."),
    Message("user", "And now?"),
    Message("assistant", "Good night."),
)
PROBE_SECONDS = 2.0
PROBE_CHARACTERS = 100_000
CHATML = "choose another, e.g. model.template=chatml"


class ChatTemplate:
    """A tokenizer with the template that a policy is trained, scored and sampled with.

    Attributes:
        tokenizer: The tokenizer; its `chat_template` is set to the one in use.
        eos_id: The token that ends an answer: the first special token that the template puts behind one, else
            the tokenizer's EOS, which is then appended.
        pad_id: A token that pads and is never EOS: the tokenizer's pad if it differs from EOS, else its unk,
            else its bos, else any other special token.
        opening: Tokens at the end of a prompt that open the answer.
        escaped: Spans of special-token text that were encoded as plain text so far.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> None:
        self.tokenizer: Any = tokenizer
        self.escaped = 0
        self._special = _special_texts(self.tokenizer)
        self._mark = f"\ue000{secrets.token_hex(4)}"
        self.tokenizer.chat_template = self._source(name)
        self._joins = self._ids("\na")[len(self._ids("\n")) :] != self._ids("a")
        with _at_most(PROBE_SECONDS):
            self._prompt = self._render(PROBE[:1], True)
            self.eos_id, self._appends, self._after = self._find_end()
            self.opening = self._count_opening()
            self.pad_id = self._find_pad()
            self.check()

    def _source(self, name: str | None) -> str:
        """The text of the template: a named one, the tokenizer's own made fit for training, or `plain`."""
        if name is not None:
            path = FOLDER / f"{name}.jinja"
            if path.parent != FOLDER or not path.is_file():
                known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.jinja")))
                raise ConfigError(
                    "model.template", f"no template is called {name!r}", f"choose one of {known}"
                )
            return path.read_text(encoding="utf-8")
        own = self.tokenizer.chat_template
        if not own:
            return (FOLDER / "plain.jinja").read_text(encoding="utf-8")
        with _at_most(PROBE_SECONDS):
            self._render(PROBE[:1], True)
        template = _training_template(self.tokenizer) or own
        return str(template["default"] if isinstance(template, dict) else template)

    # --- tokens -----------------------------------------------------------------------------------

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens up to where the assistant's answer starts, BOS included where the template has one.

        Without any message: BOS, or EOS where there is none, since something must stand before the first one.
        """
        if not messages:
            bos = self.tokenizer.bos_token_id
            return [bos if bos is not None else self.eos_id]
        self._count(messages)
        return self._encode(self._render(messages, True))

    def encode_answer(self, text: str) -> list[int]:
        """Tokens of an answer as they follow a prompt, EOS included."""
        return self._encode_turn(self._prompt, (PROBE[0], Message("assistant", text)))[1]

    def encode_steps(self, steps: Sequence[str], separator: str) -> list[list[int]]:
        """Tokens of each step of an answer with the separator behind it; EOS is not among them.

        Step and separator are encoded apart, so that a step ends in the same tokens wherever it stands. The
        first step opens an answer, so its leading spaces are those of the template. What is
        encoded of each is its `step_text`.
        """
        first, *rest = (step_text(step, separator) for step in steps)
        self._count([Message("assistant", step) for step in rest])
        behind = self._encode(separator, "-")
        found = [self.encode_answer(first.lstrip())[:-1]]
        found += [self._encode(self._escape(step), separator) for step in rest]
        return [[*ids, *behind] for ids in found]

    def encode_reply(self, text: str) -> list[int]:
        """Tokens of a user's turn: from behind the EOS of an answer to where the next answer starts.

        Raises:
            ConfigError: Turns rendered so far change when later ones are added.
        """
        reply = Message("user", text)
        self._count([reply])
        done = self._prompt + self._encode_turn(self._prompt, PROBE[:2])[0]
        opening = self._render((*PROBE[:2], reply), True)
        if not opening.startswith(done):
            raise _unstable()
        return self._encode(opening[len(done) :], done)

    def encode_conversation(
        self, messages: Sequence[Message], *, every: bool = False
    ) -> tuple[list[int], list[float]]:
        """Tokens of a whole conversation with their loss weights. A single assistant turn is plain text.

        Args:
            messages: The turns; the last is the assistant's.
            every: Weigh the tokens in front of an answer too, by the weight of the turn that it answers.

        Returns:
            ids, and weights of the same length: the turn's weight on an assistant's tokens and EOS, else 0.

        Raises:
            ConfigError: Turns rendered so far change when later ones are added.
        """
        ids: list[int] = []
        weights: list[float] = []
        done = ""
        self._count([m for m in messages if m.role != "assistant"])
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            opening = self._render(messages[:i], True) if i else ""
            if not opening.startswith(done):
                raise _unstable()
            between = self._encode(opening[len(done) :], done) if i else self.encode_prompt(())
            text, answer = self._encode_turn(opening, messages[: i + 1]) if i else self._encode_plain(message)
            ids += [*between, *answer]
            before = messages[i - 1].weight if every and i else 0.0
            weights += [*([before] * len(between)), *([message.weight] * len(answer))]
            done = opening + text
        return ids, weights

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; special tokens are shown."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def save(self, folder: Path, pad_token_id: int | None = None) -> None:
        """Write the tokenizer with the template in use, and with another pad token where one is given."""
        before = self.tokenizer.pad_token
        if pad_token_id is not None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad_token_id)
        self.tokenizer.save_pretrained(folder)
        self.tokenizer.pad_token = before

    # --- checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """The template used for training is the template used for generation.

        Raises:
            ConfigError: Turns rendered so far change when later ones are added, an answer does not follow its
                prompt, or BOS stands twice.
        """
        ids, _ = self.encode_conversation(PROBE)
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise ConfigError(
                "chat template", "BOS stands twice at the start", "remove one from the template"
            )

    def _find_end(self) -> tuple[int, bool, str]:
        """EOS, whether it has to be appended, and what the template writes behind it."""
        answered, content = self._render(PROBE[:2], False), PROBE[1].content
        at = answered.find(content, len(self._prompt))
        if at < 0:
            raise _unstable()
        tail = answered[at + len(content) :]
        found = [(tail.find(text), -len(text), text) for text in self._special if text in tail]
        if found:
            at, _, text = min(found)
            return int(self.tokenizer.convert_tokens_to_ids(text)), False, tail[at + len(text) :]
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("tokenizer", "has no EOS, and the template ends no answer", "set eos_token")
        return int(self.tokenizer.eos_token_id), True, tail

    def _find_pad(self) -> int:
        t = self.tokenizer
        for candidate in (t.pad_token_id, t.unk_token_id, t.bos_token_id, *t.all_special_ids):
            if candidate is not None and candidate not in (self.eos_id, t.eos_token_id):
                return int(candidate)
        raise ConfigError("tokenizer", "has no special token besides EOS to pad with", "add a pad token")

    def _count_opening(self) -> int:
        asked = self._render(PROBE[:1], False)
        return len(self._encode(self._prompt.removeprefix(asked), asked))

    # --- text -------------------------------------------------------------------------------------

    def _encode_turn(self, opening: str, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Text and tokens of the last turn, an answer, as they follow `opening`.

        The text is taken from the rendered conversation, since a template may trim it or put more before.
        """
        self._count(messages[-1:])
        answered = self._render(messages, False)
        if not answered.startswith(opening) or not answered.endswith(self._after):
            raise _unstable()
        text = answered[len(opening) : len(answered) - len(self._after)]
        return text, [*self._encode(text, opening), *([self.eos_id] if self._appends else [])]

    def _encode_plain(self, message: Message) -> tuple[str, list[int]]:
        """Tokens of a text that answers nothing: the text and EOS, without the template."""
        self._count([message])
        return "", [*self._encode(self._escape(message.content)), self.eos_id]

    def _render(self, messages: Sequence[Message], generation: bool) -> str:
        turns = [{"role": m.role, "content": self._escape(m.content)} for m in messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generation
            )
        except Exception as error:
            line = getattr(error, "lineno", None)
            where = f"chat template:{line}" if line else "chat template"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(where, f"fails: {reason}", CHATML) from error
        if len(text) > PROBE_CHARACTERS and messages == PROBE[: len(messages)]:
            raise ConfigError("chat template", f"writes {len(text):,} characters around a greeting", CHATML)
        return text

    def _count(self, messages: Sequence[Message]) -> None:
        self.escaped += sum(m.content.count(special) for m in messages for special in self._special)

    def _escape(self, text: str) -> str:
        """Put marks in place of special-token text, so that neither template nor tokenizer sees it."""
        for number, special in enumerate(self._special):
            text = text.replace(special, f"{self._mark}{number:03d}")
        return text

    def _encode(self, text: str, before: str = "") -> list[int]:
        """Tokens of rendered text behind `before`; what was escaped is encoded as the text it was."""
        first, *rest = text.split(self._mark)
        ids = self._piece(first, before)
        for piece in rest:
            special, ordinary = self._special[int(piece[:3])], piece[3:]
            ids += self._piece(special, "-", split=True)
            ids += self._piece(ordinary, "-")
        return ids

    def _piece(self, text: str, before: str, split: bool = False) -> list[int]:
        """Tokens of a piece; only at the very start it is given the space that some tokenizers add."""
        if not text:
            return []
        if not before or not self._joins:
            return self._ids(text, split)
        anchor = next((s for s in self._special if before.endswith(s) and not split), "\n")
        head, whole = self._ids(anchor), self._ids(anchor + text, split)
        return whole[len(head) :] if whole[: len(head)] == head else self._ids(text, split)

    def _ids(self, text: str, split: bool = False) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split)
        return list(encoded["input_ids"])


def step_text(step: str, separator: str) -> str:
    """A step as it is found when its answer is cut at the separator, where blank parts are no steps.

    Example:
        >>> step_text(";two ; ", ";"), step_text("1; 2;; ", ";")
        ('two', '1; 2')
    """
    parts = step.split(separator)
    told = [i for i, part in enumerate(parts) if part.strip()] or [0]
    return separator.join(parts[told[0] : told[-1] + 1]).rstrip()


def _special_texts(tokenizer: Any) -> list[str]:
    """Texts that the tokenizer would take for a special token, longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *added}, key=lambda text: (-len(text), text))


def _unstable() -> ConfigError:
    return ConfigError(
        "chat template",
        "an answer does not follow the prompt it is generated from (the template is not prefix-stable)",
        CHATML,
    )


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Stop a template that never ends, by time of the CPU; no effect without signals (threads, Windows)."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(
        signal.ITIMER_VIRTUAL, seconds, seconds
    )  # again, where a library took the first for its own
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _training_template(tokenizer: Any) -> str | None:
    """TRL's training version of the tokenizer's template, None where it has none or needs none."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from trl.chat_template_utils import get_training_chat_template

    try:
        with _at_most(PROBE_SECONDS):
            patched: str | None = get_training_chat_template(tokenizer)
    except Exception:  # a family it does not know, or a template that fails: `check` decides about its own
        return None
    return patched
