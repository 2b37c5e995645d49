"""Where an answer ends: at a token of EOS or behind a stop string."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from align.data.template import ChatTemplate
from align.rollout.types import End, Rollout

SPARE = 8  # tokens more than a stop string can have: the first of a tail may decode to something else


@dataclass(frozen=True)
class Ends:
    """What ends an answer.

    A stop string may begin and end within tokens. The answer keeps all tokens up to the one that completes
    it, since they were sampled; its text ends before the stop string. (So does vLLM's; that of transformers
    holds it.)

    Attributes:
        eos: Tokens, each of which ends an answer.
        stop: Strings, the first of which ends an answer.
        decode: Text of tokens; read for stop strings and by `text`.
    """

    eos: tuple[int, ...]
    stop: tuple[str, ...] = ()
    decode: Callable[[Sequence[int]], str] | None = None

    @classmethod
    def of(cls, model: Any, template: ChatTemplate, stop: Sequence[str] = ()) -> Ends:
        """The template's EOS, and those that the model's generation config names.

        Args:
            model: A causal model of transformers.
            template: Ends answers, and decodes them.
            stop: Stop strings.
        """
        config = getattr(model, "generation_config", None)
        known = getattr(config, "eos_token_id", None)
        more = known if isinstance(known, list) else [] if known is None else [known]
        return cls(tuple(dict.fromkeys([template.eos_id, *more])), tuple(stop), template.decode)

    def reached(self, ids: Sequence[int], least: int = 0) -> End | None:
        """How an answer ends with its last token; None: it goes on.

        Args:
            ids: The answer so far.
            least: Stop strings that are complete within so many tokens do not count; EOS is banned there.
        """
        if ids[-1] in self.eos:
            return "eos"
        if self.stop and len(ids) > least:
            longest = max(len(string.encode()) for string in self.stop)  # a token has a byte at least
            if self._stopped(ids[-longest - SPARE :])[1]:
                return "stop"
        return None

    def text(self, rollout: Rollout) -> str:
        """The answer's text, without EOS or the stop string that ended it; of an episode the last turn's."""
        ids = rollout.ids[rollout.start :]
        ids = ids[:-1] if rollout.end == "eos" else ids
        text, places = self._stopped(ids) if rollout.end == "stop" else (self._text(ids), [])
        return text[: min(places)] if places else text

    def _stopped(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """The text, and where in it stop strings begin that its last token completes."""
        text = self._text(ids)
        if not any(string in text for string in self.stop):
            return text, []
        before = len(os.path.commonprefix([self._text(ids[:-1]), text]))  # a character may have been cut
        found = (text.find(string, max(0, before - len(string) + 1)) for string in self.stop)
        return text, [at for at in found if at >= 0]

    def _text(self, ids: Sequence[int]) -> str:
        if self.decode is None:
            raise ValueError("stop strings and texts need a way to decode tokens")
        return self.decode(list(ids))
