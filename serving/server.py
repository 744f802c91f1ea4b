"""The server process: open the live bundle, warm up, answer over gRPC until told to stop.

A thread per call, of which as many work at once as there are cores, each computing on one thread: search and encoding
release the interpreter's lock, and more computing threads than cores would only lengthen each call. The others wait
(`serving.gate`), which costs nothing but memory.

Signals: SIGTERM and SIGINT turn health to NOT_SERVING, let calls in flight finish, and stop; SIGHUP serves the bundle
that CURRENT names by then. Of several processes (`serving.processes`) the parent gets them, and passes them on.
"""

from __future__ import annotations

import gc
import logging
import queue
import signal
import sys
import time
from collections.abc import Callable
from concurrent import futures
from contextlib import ExitStack
from functools import partial

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from recsys import artifact
from recsys.bundle import Bundle
from recsys.command import Manners, execute
from recsys.errors import ConfigError, RecsysError
from recsys.index.searcher import use_one_thread
from serving.bundles import LiveBundle
from serving.catalogue import Catalogue
from serving.catalogue_servicer import CatalogueServicer
from serving.engine import Engine
from serving.gate import Gate
from serving.interceptors import CallInterceptor
from serving.logs import CallLog, configure
from serving.metrics import Metrics, exported
from serving.processes import Signals, signals_into, supervise
from serving.query import Answer, Call
from serving.security import Tokens, server_credentials
from serving.servicer import CandidateServicer, recommend_response
from serving.settings import ServerSettings
from serving.shadow import Shadow
from serving.tracing import spans_from_environment
from serving.v1 import candidates_pb2, catalogue_pb2
from serving.v1.candidates_pb2_grpc import add_CandidateServiceServicer_to_server
from serving.v1.catalogue_pb2_grpc import add_CatalogueServiceServicer_to_server
from serving.workers import Workers

SERVICE = candidates_pb2.DESCRIPTOR.services_by_name["CandidateService"].full_name
CATALOGUE_SERVICE = catalogue_pb2.DESCRIPTOR.services_by_name["CatalogueService"].full_name

_TO_REFUSE = 16
"""Threads beyond those of calls that work or wait, to refuse others and to answer health checks."""

_HELP = """Answer over gRPC: each request's budget picks the rung. Prints `listening on HOST:PORT` when it does.

SIGTERM and SIGINT end it gracefully; on SIGHUP it serves the bundle that CURRENT names by then.

For example:
  recsys-serve --bundles work/bundles --port 50051 --metrics-port 9100"""

_log = logging.getLogger(__name__)


class Server:
    """A server over real sockets; a context manager that stops it.

    Args:
        settings: what to serve, and where; of one process, whatever they say of several.

    Raises:
        ArtifactError: the live bundle is missing or damaged.
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.catalogue = (
            None if settings.catalogue is None else Catalogue(settings.catalogue, limits=settings.catalogue_limits)
        )
        self.metrics = Metrics()
        self._shadow = Shadow(settings.shadow, self.metrics)
        self.live = LiveBundle(settings.bundles, self._warm_engine)
        self._health = health.HealthServicer()
        gate = Gate(slots=settings.workers, max_waiting=settings.max_waiting, dimmer=settings.dimmer)
        self._spans = spans_from_environment()
        watch = partial(
            CallInterceptor,
            metrics=self.metrics,
            log=CallLog(slow_ms=settings.slow_call_ms),
            spans=self._spans,
            tokens=None if settings.token_file is None else Tokens.read(settings.token_file),
        )
        # Threads for all that wait too: a call is read before it is decided about, and a refusal must not wait itself.
        threads = settings.workers + settings.max_waiting + _TO_REFUSE
        pool = Workers(threads, _compute_on_one_thread)
        self.metrics.watch(gate, num_inside=lambda: pool.num_inside)

        def full() -> bool:
            return gate.full(num_inside=pool.num_inside)

        interceptors = [
            watch(SERVICE, waiting=CandidateServicer.WAITING, full=full, retry_after_ms=gate.retry_after_ms)
        ]
        if self.catalogue is not None:
            interceptors.append(watch(CATALOGUE_SERVICE))
        self._server = grpc.server(
            pool,
            interceptors=[*interceptors],
            options=server_options(share_port=settings.processes > 1, max_unread=settings.max_unread),
            maximum_concurrent_rpcs=threads,
        )
        add_CandidateServiceServicer_to_server(CandidateServicer(self.live, gate, self.metrics), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = ["", SERVICE, health.SERVICE_NAME]
        if self.catalogue is not None:
            servicer = CatalogueServicer(self.catalogue, self.live, self.metrics)
            add_CatalogueServiceServicer_to_server(servicer, self._server)
            self.metrics.watch_catalogue(lambda: self.live.engine.view())
            names.append(CATALOGUE_SERVICE)
        if settings.reflection:
            names.append(reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names[1:], self._server)
        self._health_names = names
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = self._listen()

    @property
    def address(self) -> str:
        """Host and port, as a client takes them."""
        return f"{self.settings.host}:{self.port}"

    def start(self) -> None:
        """Answer calls, and say so."""
        self._shadow.start()
        self._server.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Say that this server is going, then refuse new calls and let those in flight finish."""
        self._health.enter_graceful_shutdown()
        time.sleep(self.settings.drain_s)
        self._server.stop(self.settings.grace_s).wait()
        self._shadow.stop()
        if self._spans is not None:
            self._spans.stop()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _warm_engine(self, bundle: Bundle) -> Engine:
        engine = Engine(
            bundle,
            limits=self.settings.limits,
            deadline_margin_ms=self.settings.deadline_margin_ms,
            view=None if self.catalogue is None else self.catalogue.follow(bundle).view,
        )
        # In a thread like those that will answer, so that the same number of threads computes.
        with futures.ThreadPoolExecutor(1, initializer=_compute_on_one_thread) as pool:
            pool.submit(engine.warm_up, _encode).result()
        engine.shadow = self._shadow  # only now: the calls of the warm-up are nobody's
        return engine

    def _listen(self) -> int:
        settings = self.settings
        address = f"{settings.host}:{settings.port}"
        credentials = None
        if settings.tls_certificate is not None and settings.tls_key is not None:
            credentials = server_credentials(settings.tls_certificate, settings.tls_key, settings.client_ca)
        elif settings.token_file is not None:
            _log.warning("tokens are sent in clear text: there is no tls_certificate")
        try:
            if credentials is not None:
                return self._server.add_secure_port(address, credentials)
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"host, port: got {address}, which cannot be listened on (in use?)") from error

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        for name in self._health_names:
            self._health.set(name, status)


def server_options(*, share_port: bool = False, max_unread: int = ServerSettings.max_unread) -> list[tuple[str, int]]:
    """Return every channel option of the server, with its reason."""
    return [
        # By default a second server binds the same port without a word, and each gets some of the calls: what processes
        # of one server want, and nobody else.
        ("grpc.so_reuseport", int(share_port)),
        # Bounds what one call can make the server read; a batch of 256 users with 1,000 items each still fits.
        ("grpc.max_receive_message_length", 4 * 2**20),
        # Where more calls come than Python can look at, each waits for all before it, until its own deadline is as good
        # as over too, and in the end none is answered in time. Past the first number calls are refused at random, the
        # more the more there are; gRPC's own number is 1,000, which is a wait of a third of a second.
        ("grpc.server.max_pending_requests", max_unread // 4),
        ("grpc.server.max_pending_requests_hard_limit", max_unread),
    ]


def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT. The first line on standard output is ``listening on HOST:PORT``.

    Raises:
        ArtifactError: the live bundle is missing or damaged.
        ConfigError: the address cannot be listened on.
    """

    def ready(port: int) -> None:
        # Whoever has read the line may read the file.
        if settings.port_file:
            artifact.write_whole(settings.port_file, f"{port}\n")
        sys.stdout.write(f"listening on {settings.host}:{port}\n")
        sys.stdout.flush()

    if settings.processes > 1:
        supervise(settings, answer_calls, ready=ready)
        return
    received: Signals = queue.SimpleQueue()
    with signals_into(received):
        answer_calls(settings, received, ready)


def answer_calls(settings: ServerSettings, received: Signals, ready: Callable[[int], None]) -> None:
    """Serve in this process until a signal other than SIGHUP is received.

    Args:
        settings: what to serve, and where.
        received: signals, as they come.
        ready: called with the port once calls are answered.

    Raises:
        ArtifactError: the live bundle is missing or damaged.
        ConfigError: the address cannot be listened on.
    """
    with ExitStack() as running:
        server = running.enter_context(Server(settings))
        if settings.metrics_port is not None:
            port = running.enter_context(exported(server.metrics, host=settings.host, port=settings.metrics_port))
            _log.info("metrics at http://%s:%d/metrics", settings.host, port)
        spare_collector()
        ready(server.port)
        _log.info("serving bundle %s with %d workers", server.live.engine.bundle.version, settings.workers)
        while received.get() == signal.SIGHUP:
            try:
                if server.live.reload():
                    spare_collector()
            except RecsysError:
                _log.exception("bundle not reloaded; the one before stays live")
        _log.info("stopping: health is NOT_SERVING, calls in flight have %g s", settings.grace_s)


def main() -> None:
    """Run ``recsys-serve``: its options, errors and exit codes are like those of the verbs of ``recsys``."""

    def run(settings: ServerSettings) -> dict[str, str]:
        configure(settings.log_format)
        serve(settings)
        return {}

    execute("recsys-serve", _HELP, lambda: (ServerSettings, run), sys.argv[1:], manners=Manners)


def spare_collector() -> None:
    """Let the garbage collector no longer look at what is here now, which is a bundle more than anything else.

    Looking through a million items takes it .2 s, in which no call goes on; so it does that once, for what the bundle
    before has left, and not whenever calls have left enough.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _compute_on_one_thread() -> None:
    """Keep calls from competing for cores: OpenMP's thread count belongs to each calling thread."""
    use_one_thread()
    torch.set_num_threads(1)


def _encode(answer: Answer) -> bytes:
    return recommend_response(answer, Call.now()).SerializeToString()


if __name__ == "__main__":
    main()
