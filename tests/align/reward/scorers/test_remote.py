"""A remote scorer against a small server in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from answered import answered

from align.config.rewards import HttpReward
from align.errors import AlignError, NumericsError, ResourceError
from align.reward.scorers.remote import http_scorer

Reply = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes]]


class Server(HTTPServer):
    """Answers each request with the next of its replies, the last of them for ever."""

    replies: list[Reply]
    seen: list[tuple[dict[str, str], dict[str, Any]]]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((dict(self.headers), body))
        replies = self.server.replies
        code, headers, content = (replies.pop(0) if len(replies) > 1 else replies[0])(body)
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *given: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("ALIGN_REWARD_KEY", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as running:
        running.replies, running.seen = [lengths], []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def lengths(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """The length of each answer as its score."""
    return 200, {}, json.dumps({"scores": [len(one["answer"]) for one in body["answers"]]}).encode()


def says(code: int, text: str = "", **headers: str) -> Reply:
    return lambda body: (
        code,
        {name.replace("_", "-"): value for name, value in headers.items()},
        text.encode(),
    )


def options(server: Server, **given: Any) -> HttpReward:
    return HttpReward(kind="http", url=f"http://127.0.0.1:{server.server_port}/score", **given)


ANSWERS = [answered("a", name="p/0", answer="7"), answered("bb", name="p/1"), answered("ccc", name="p/2")]


def test_answers_go_out_in_batches_and_scores_come_back_in_order(server: Server) -> None:
    assert http_scorer(options(server, batch_size=2))(ANSWERS).values.tolist() == [1.0, 2.0, 3.0]
    assert [len(body["answers"]) for _, body in server.seen] == [2, 1]
    first = {
        "id": "p/0",
        "prompt": [{"role": "user", "content": "q"}],
        "answer": "a",
        "facts": {"answer": "7"},
    }
    assert server.seen[0][1]["answers"][0] == first
    assert "Authorization" not in server.seen[0][0]


def test_the_key_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGN_REWARD_KEY", "hush")
    http_scorer(options(server))(ANSWERS)
    assert server.seen[0][0]["Authorization"] == "Bearer hush"


def test_a_busy_server_is_asked_again_after_a_growing_while(server: Server) -> None:
    server.replies = [says(429), says(503, Retry_After="7"), says(500), says(502, Retry_After="999"), lengths]
    slept: list[float] = []
    scores = http_scorer(options(server), slept.append)(ANSWERS)
    assert scores.values.tolist() == [1.0, 2.0, 3.0]
    assert slept == [1.0, 7.0, 4.0, 60.0]


def test_a_server_that_stays_busy_ends_the_run(server: Server) -> None:
    server.replies = [says(503)]
    slept: list[float] = []
    with pytest.raises(ResourceError, match=r"answers 503 after 3 tries \(rows p/0 to p/2\); start it"):
        http_scorer(options(server, retries=2), slept.append)(ANSWERS)
    assert slept == [1.0, 2.0]


def test_a_server_that_is_not_there_is_asked_again(server: Server) -> None:
    gone = HttpReward(kind="http", url="http://127.0.0.1:9/", retries=1)
    slept: list[float] = []
    with pytest.raises(ResourceError, match="cannot be reached: .* after 2 tries"):
        http_scorer(gone, slept.append)(ANSWERS)
    assert slept == [1.0]


def test_a_slow_server_runs_into_the_timeout(server: Server) -> None:
    release = threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        release.wait(10)
        return lengths(body)

    server.replies = [slow, lengths]
    slept: list[float] = []
    scorer = http_scorer(
        options(server, timeout=0.2), lambda seconds: (slept.append(seconds), release.set())[0]
    )
    assert scorer(ANSWERS).values.tolist() == [1.0, 2.0, 3.0]
    assert slept == [1.0]


def test_a_refusal_ends_at_once_and_does_not_show_the_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIGN_REWARD_KEY", "hush")
    server.replies = [says(401, "key hush is wrong")]
    with pytest.raises(ResourceError, match=r"answers 401 Unauthorized: key \*\*\* is wrong"):
        http_scorer(options(server), pytest.fail)(ANSWERS)
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.replies = [says(307, Location=f"http://127.0.0.1:{server.server_port}/other")]
    with pytest.raises(ResourceError, match="answers 307"):
        http_scorer(options(server), pytest.fail)(ANSWERS)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("", r"returned no list of scores \(rows p/0 to p/2\)"),
        ("[1, 2, 3]", "returned no list of scores"),
        ('{"score": 1}', "returned no list of scores"),
        ('{"scores": [1, 2]}', r"returned 2 scores for 3 answers \(rows p/0 to p/2\)"),
        ('{"scores": [1, NaN, 2]}', "returned nan for row p/1"),
        ('{"scores": [1, 2, null]}', "returned None for row p/2"),
        ('{"scores": ["1", 2, 3]}', "returned '1' for row p/0"),
        ('{"scores": [true, 2, 3]}', "returned True for row p/0"),
        (f'{{"scores": [1, 1{"0" * 400}, 3]}}', "for row p/1"),
    ],
)
def test_wrong_shapes_name_their_rows(server: Server, reply: str, line: str) -> None:
    server.replies = [says(200, reply)]
    with pytest.raises(NumericsError, match=line) as error:
        http_scorer(options(server), pytest.fail)(ANSWERS)
    assert isinstance(error.value, AlignError)
