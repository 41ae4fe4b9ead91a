"""Recorded stop signals, and the handlers that are restored afterwards."""

import signal
import threading

import pytest

from fasticcl.system.signals import StopRequest


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_first_signal_is_recorded_and_second_calls_the_previous_handler(signum):
    received = []
    previous = signal.signal(signum, lambda number, _: received.append(number))
    try:
        with StopRequest() as stop:
            assert stop.signum is None
            signal.raise_signal(signum)
            assert (stop.signum, received) == (signum, [])
            signal.raise_signal(signum)
            assert received == [signum]
    finally:
        signal.signal(signum, previous)


def test_handlers_are_restored_without_a_signal():
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != handlers[1]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_no_handlers_are_set_outside_the_main_thread():
    handlers = []

    def enter():
        with StopRequest():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]
