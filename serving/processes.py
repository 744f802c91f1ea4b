"""Several server processes on one port: in one of them Python runs one thread at a time, which cannot fill a machine.

Every process listens on the same port (SO_REUSEPORT), and the kernel gives each new connection to one of them. Vectors
are mapped files, so memory holds them once. The parent answers no call: it starts the processes, passes signals on to
them, and starts one again that died. One that ends before it has answered calls ends them all, since starting it again
would only fail again. When the parent dies, however that happens, its processes stop as for SIGTERM.

Processes are spawned: FAISS, torch and gRPC have threads that would be missing from a forked one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from recsys.errors import ConfigError, RecsysError
from serving.logs import configure
from serving.settings import ServerSettings

Signals = queue.SimpleQueue[int]
Run = Callable[[ServerSettings, Signals, Callable[[int], None]], None]
"""Serves until a signal other than SIGHUP comes; calls back with its port once it answers. A function of a module."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_log = logging.getLogger(__name__)


class _Ready(NamedTuple):
    process: BaseProcess


class _Ended(NamedTuple):
    process: BaseProcess


_Events = queue.SimpleQueue[int | _Ready | _Ended]


def supervise(settings: ServerSettings, run: Run, *, ready: Callable[[int], None]) -> None:
    """Serve in ``settings.processes`` processes until SIGTERM or SIGINT; SIGHUP goes to all of them.

    Args:
        settings: of all processes together; each gets its share of workers and of waiting calls.
        run: what each process does, with settings of its own.
        ready: called with the port once all of them answer.

    Raises:
        ConfigError: the address cannot be listened on.
        RecsysError: a process ended before it answered calls; it has said why on standard error.
    """
    events: _Events = queue.SimpleQueue()
    with signals_into(events), closing(_reserve(settings)) as reserved:
        port = reserved.getsockname()[1]
        shares = [_share_of(settings, port, place) for place in range(settings.processes)]
        running = {_start(share, run, events): share for share in shares}
        answering: set[BaseProcess] = set()
        announced = False
        try:
            while (event := events.get()) not in (signal.SIGTERM, signal.SIGINT):
                if isinstance(event, _Ready):
                    answering.add(event.process)
                    # SIGHUP would have ended it while it started, so it may have missed one.
                    _send({event.process}, signal.SIGHUP)
                    if not announced and answering == running.keys():
                        ready(port)
                        announced = True
                elif isinstance(event, _Ended):
                    share = running.pop(event.process)
                    _check_ended(event.process, answered=event.process in answering)
                    answering.remove(event.process)
                    running[_start(share, run, events)] = share
                else:
                    _send(answering, signal.SIGHUP)
        finally:
            _send(running.keys(), signal.SIGTERM)
            for process in running:
                process.join()


@contextmanager
def signals_into(received: queue.SimpleQueue[int] | _Events) -> Iterator[None]:
    """Put SIGTERM, SIGINT and SIGHUP in a queue; for the main thread, which may wait on that queue.

    The kernel may hand a signal to any thread. Python then notes it, and has it handled by the main thread, which it
    does not wake: one that waits for a lock goes on waiting. So it is not a handler that fills the queue but a thread
    that reads the file that Python writes each signal's number to at once, whichever thread was interrupted.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def pass_on() -> None:
        while number := reading.recv(1):
            if number[0] in _SIGNALS:
                received.put(number[0])

    thread = threading.Thread(target=pass_on, name="signals", daemon=True)
    thread.start()
    wakeup_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda _got, _frame: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        writing.close()
        thread.join()
        reading.close()


def _reserve(settings: ServerSettings) -> socket.socket:
    """Take the port, if nobody has it, and keep it for the processes. It does not listen, so it gets no connections."""
    host = settings.host.strip("[]")
    try:
        family, *_, address = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0]
        # Without SO_REUSEPORT this fails where anybody has the port, even with it.
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            address = probe.getsockname()
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        got = f"{settings.host}:{settings.port}"
        raise ConfigError(f"host, port: got {got}, which cannot be listened on: {error.strerror}") from error
    return reserved


def _share_of(settings: ServerSettings, port: int, place: int) -> ServerSettings:
    """Return what one of the processes is to do."""
    return replace(
        settings,
        port=port,
        port_file=None,
        metrics_port=settings.metrics_port + place if settings.metrics_port else settings.metrics_port,
        workers=max(1, settings.workers // settings.processes),
        max_waiting=settings.max_waiting // settings.processes,
    )


def _start(settings: ServerSettings, run: Run, events: _Events) -> BaseProcess:
    spawning = multiprocessing.get_context("spawn")
    answers, tell = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_work, args=(settings, run, tell, logging.getLogger().level))
    process.start()
    tell.close()
    threading.Thread(target=_watch, args=(process, answers, events), daemon=True).start()
    return process


def _watch(process: BaseProcess, answers: Connection, events: _Events) -> None:
    """Report when a process answers calls, if it gets there, and when it has ended."""
    with answers:
        try:
            answers.recv_bytes()
        except EOFError:  # it ended first, which `_Ended` reports and `_check_ended` makes an error of
            _log.debug("process %s ended before it answered calls", process.pid)
        else:
            events.put(_Ready(process))
    wait([process.sentinel])
    events.put(_Ended(process))


def _work(settings: ServerSettings, run: Run, tell: Connection, log_level: int) -> None:
    """Do what each process does; the words of an error are for people, its exit code for the parent."""
    configure(settings.log_format, level=log_level)
    received: Signals = queue.SimpleQueue()
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by supervise"

    def stop_with_parent() -> None:
        wait([parent.sentinel])
        received.put(signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    try:
        with signals_into(received):
            run(settings, received, lambda _port: tell.send_bytes(b"answers"))
    except RecsysError as error:
        raise SystemExit(f"recsys-serve: error: {error}") from error


def _check_ended(process: BaseProcess, *, answered: bool) -> None:
    process.join()
    if not answered:
        raise RecsysError(f"process {process.pid} ended with exit code {process.exitcode} before it answered calls")
    _log.error("process %d ended with exit code %s; starting another one", process.pid, process.exitcode)


def _send(processes: AbstractSet[BaseProcess], number: signal.Signals) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
