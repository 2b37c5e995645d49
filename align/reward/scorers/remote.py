"""Scores of a server: `POST {"answers": [...]}`, answered by `{"scores": [...]}`.

Each answer is sent as `{"id", "prompt": [{"role", "content"}, ...], "answer", "facts"}`. The key, if the
server wants one, stands in the environment variable `ALIGN_REWARD_KEY` and is sent as a bearer token; it is
never logged.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

import torch

from align.config.rewards import HTTP_KEY, HttpReward
from align.errors import NumericsError, ResourceError
from align.reward.types import Answered, Scorer, Scores

BUSY = (408, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds between two tries
MAX_REPLY = 2**26  # bytes
SAID = 200  # characters of what a server says that are shown


class _Busy(Exception):
    """The server is busy or down; another try may help, not before `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server that sends elsewhere would be handed the key and the texts of another."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        """Follow none."""


def http_scorer(options: HttpReward, sleep: Callable[[float], None] = time.sleep) -> Scorer:
    """The scores that a server returns.

    Args:
        options: Address, size of a request, timeout and tries.
        sleep: Waits between two tries.

    Raises:
        ResourceError: The server stays busy or down, or refuses.
        NumericsError: It does not return one number for each answer; the rows are named.
    """

    def scorer(answers: Sequence[Answered]) -> Scores:
        parts = [answers[i : i + options.batch_size] for i in range(0, len(answers), options.batch_size)]
        return Scores(torch.tensor([score for part in parts for score in _scores(options, part, sleep)]))

    return scorer


def _scores(options: HttpReward, answers: Sequence[Answered], sleep: Callable[[float], None]) -> list[float]:
    body = json.dumps({"answers": [_sent(answer) for answer in answers]}).encode()
    for attempt in range(options.retries + 1):
        try:
            return _checked(options, _post(options, body), answers)
        except _Busy as busy:
            if attempt == options.retries:
                what = f"{busy} after {attempt + 1} tries ({_rows(answers)})"
                raise ResourceError(options.url, what, "start it; the same command resumes") from None
            sleep(min(LONGEST_WAIT, max(2.0**attempt, busy.wait)))
    raise AssertionError("the last try returns or raises")


def _sent(answer: Answered) -> dict[str, Any]:
    turns = [{"role": turn.role, "content": turn.content} for turn in answer.prompt]
    return {"id": answer.id, "prompt": turns, "answer": answer.text, "facts": dict(answer.facts)}


def _post(options: HttpReward, body: bytes) -> bytes:
    """The reply to one request.

    Raises:
        _Busy: Another try may help.
        ResourceError: None will.
    """
    headers, key = {"Content-Type": "application/json"}, os.environ.get(HTTP_KEY)
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(options.url, body, headers, method="POST")
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=options.timeout) as reply:
            read: bytes = reply.read(MAX_REPLY)
            return read
    except urllib.error.HTTPError as error:
        if error.code in BUSY:
            raise _Busy(f"answers {error.code}", _asked_to_wait(error)) from None
        said = error.read(SAID).decode("utf-8", "replace").strip()
        said = said.replace(key, "***") if key else said  # a server may say what it was sent
        fix = f"check the address and {HTTP_KEY}"
        raise ResourceError(options.url, f"answers {error.code} {error.reason}: {said}", fix) from None
    except urllib.error.URLError as error:
        raise _Busy(f"cannot be reached: {error.reason}") from None
    except (TimeoutError, HTTPException, ConnectionError) as error:
        raise _Busy(f"breaks off: {type(error).__name__}") from None


def _asked_to_wait(error: urllib.error.HTTPError) -> float:
    """Seconds that the server asks for, 0 where it asks for none or for a date."""
    asked = error.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _checked(options: HttpReward, reply: bytes, answers: Sequence[Answered]) -> list[float]:
    """The scores in a reply.

    Raises:
        NumericsError: It does not hold one number for each answer.
    """
    try:
        found = json.loads(reply)
    except (ValueError, RecursionError):
        found = None
    scores = found.get("scores") if isinstance(found, dict) else None
    fix = 'reply with {"scores": [one number for each answer]}'
    if not isinstance(scores, list):
        raise NumericsError(options.url, f"returned no list of scores ({_rows(answers)})", fix)
    if len(scores) != len(answers):
        what = f"returned {len(scores)} scores for {len(answers)} answers ({_rows(answers)})"
        raise NumericsError(options.url, what, fix)
    for answer, score in zip(answers, scores, strict=True):
        if not _is_number(score):
            raise NumericsError(options.url, f"returned {score!r:.40} for row {answer.id}", fix)
    return [float(score) for score in scores]


def _is_number(score: Any) -> bool:
    """A finite number; what JSON calls NaN is none, nor is an integer that no float holds."""
    return isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < 1e300


def _rows(answers: Sequence[Answered]) -> str:
    first, last = answers[0].id, answers[-1].id
    return f"row {first}" if len(answers) == 1 else f"rows {first} to {last}"
