"""Once stops after the step, twice at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from align.pipeline.signals import STOPPING, graceful


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_remembered_and_the_old_handlers_return(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number), signal.getsignal(signal.SIGHUP)
    with graceful() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert (signal.getsignal(number), signal.getsignal(signal.SIGHUP)) == before
    assert STOPPING in capfd.readouterr().err


def test_a_lost_terminal_is_ignored() -> None:
    with graceful() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop()


def test_in_another_thread_there_are_no_handlers() -> None:
    found: list[bool] = []

    def body() -> None:
        with graceful() as stop:
            found.append(stop())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_ends_at_once(number: signal.Signals, code: int) -> None:
    script = (
        "import time\nfrom align.pipeline.signals import graceful\n"
        "with graceful() as stop:\n    print('ready', flush=True)\n"
        "    while not stop(): time.sleep(0.01)\n    print('asked', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.stdout.readline() == "asked\n"
    began = time.monotonic()
    child.send_signal(number)
    child.communicate(timeout=10)
    assert child.returncode == code
    assert time.monotonic() - began < 2
