"""Signals reach the queue that the main thread waits on, whichever thread the kernel interrupts."""

import subprocess
import sys

import pytest

TO_ANOTHER_THREAD = """
import queue, signal, sys, threading, time
from serving.processes import signals_into

received = queue.SimpleQueue()

def interrupted():
    time.sleep(0.5)  # by then the main thread waits
    signal.pthread_kill(threading.get_ident(), int(sys.argv[1]))
    time.sleep(60)

with signals_into(received):
    threading.Thread(target=interrupted, daemon=True).start()
    print(received.get())
"""


@pytest.mark.parametrize("number", [1, 2, 15])
def test_a_signal_that_another_thread_gets_wakes_who_waits(number):
    command = [sys.executable, "-c", TO_ANOTHER_THREAD, str(number)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True)
    assert ended.stdout.strip() == str(number)
