"""SIGINT and SIGTERM within a process: when they end a block, and when they are only noted."""

import importlib
import os
import signal
import sys
import threading
import time

import pytest

from xdc_fast.interrupt import SIGNALS, Interrupt, Interrupted, blocked, raising


@pytest.fixture(autouse=True)
def handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_raising_ends_a_block_at_once(number):
    with pytest.raises(Interrupted) as error, raising():
        signal.raise_signal(number)
        pytest.fail("goes on")
    assert error.value.signal == number and str(error.value) == number.name


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_is_noted_and_a_second_ends_the_block(number):
    with raising(), Interrupt() as interrupt:
        interrupt.check()
        assert interrupt.received is None
        signal.raise_signal(number)
        assert interrupt.received == number
        with pytest.raises(Interrupted):
            interrupt.check()
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_an_import_leaves_the_answer_to_the_handler_before(number, tmp_path, monkeypatch):
    """An exception within an import may be lost: extension modules turn it into another."""
    (tmp_path / "swallows.py").write_text(
        f"import signal\ntry: signal.raise_signal({int(number)})\nexcept BaseException: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "swallows", raising=False)
    seen = []
    before = signal.signal(number, lambda number, _: seen.append(number))
    try:
        with raising(), raising():
            importlib.import_module("swallows")
    finally:
        signal.signal(number, before)
    assert seen == [number]


def test_in_other_threads_the_main_thread_keeps_its_handlers():
    found = []

    def work():
        with raising(), Interrupt() as interrupt:
            interrupt.check()
            found.extend(signal.getsignal(number) for number in SIGNALS)

    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_a_process_has_started(number):
    done = []
    with pytest.raises(Interrupted) as stopped, raising():
        with blocked():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            done.append("started")
        done.append("never")
    assert done == ["started"] and stopped.value.signal == number
