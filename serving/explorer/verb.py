"""``recsys explore``: serve the page until told to stop, with a server of its own where no other is named."""

from __future__ import annotations

import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from recsys.errors import ConfigError
from serving.client import Client
from serving.explorer.app import Sources, make_app
from serving.explorer.names import BundleNames
from serving.explorer.traffic import TrafficPage
from serving.metrics import exported
from serving.processes import Signals, signals_into
from serving.security import ClientSecurity
from serving.server import Server
from serving.settings import ServerSettings

_DEADLINE_MS = 10_000
_STARTED_WITHIN_S = 30.0
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_EVERYWHERE = ("0.0.0.0", "[::]", "::")  # noqa: S104


@dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Which server the page shows, and where the page is."""

    bundles: Path | None = None
    """Folder of bundles: names of users and items are read there and, without an address, a server is started on it."""
    address: str | None = None
    """Host and port of a running server."""
    metrics: str | None = None
    """That server's page for Prometheus, such as http://127.0.0.1:9090/metrics, for rates and latencies."""
    security: ClientSecurity = field(default_factory=ClientSecurity)
    """Whom to trust, and what to prove oneself with, where that server asks for it."""
    host: str = "127.0.0.1"
    """Address that the page listens on. It has no passwords: whoever can reach it sees users and what they chose."""
    port: int = 8080
    """Port of the page; 0 for any free one."""

    def __post_init__(self) -> None:
        if self.bundles is None and self.address is None:
            raise ConfigError("bundles, address: got neither, expected a folder of bundles, a running server, or both")
        if self.metrics is not None and self.address is None:
            raise ConfigError("metrics: got it without address, expected none: a server started here has its own")
        if self.security != ClientSecurity() and self.address is None:
            raise ConfigError("security: got it without address, expected none: a server started here asks for nothing")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port: got {self.port}, expected 0 to 65535")


def explore(options: ExploreOptions, *, ready: Callable[[str], None]) -> None:
    """Serve the page until SIGTERM or SIGINT.

    Args:
        options: which server, and where.
        ready: called with the page's address once it can be opened.

    Raises:
        ArtifactError: a server is to be started, and there is no bundle that it could serve.
        ConfigError: the address cannot be listened on.
    """
    received: Signals = queue.SimpleQueue()
    with signals_into(received), sources_of(options) as sources:
        app = make_app(sources, hosts=_hosts(options.host))
        with listening(app, host=options.host, port=options.port) as url:
            ready(url)
            while received.get() == signal.SIGHUP:
                pass


@contextmanager
def sources_of(options: ExploreOptions) -> Iterator[Sources]:
    """Connect to the server named, or start one, while this lasts."""
    with ExitStack() as running:
        address, metrics = options.address, options.metrics
        if address is None:
            assert options.bundles is not None, "checked options have one of the two"
            server = running.enter_context(Server(ServerSettings(bundles=options.bundles, port=0)))
            port = running.enter_context(exported(server.metrics, host="127.0.0.1", port=0))
            address, metrics = server.address, f"http://127.0.0.1:{port}/metrics"
        yield Sources(
            client=running.enter_context(Client(address, deadline_ms=_DEADLINE_MS, security=options.security)),
            names=None if options.bundles is None else BundleNames(options.bundles),
            traffic=None if metrics is None else TrafficPage(metrics),
        )


@contextmanager
def listening(app: ASGIApp, *, host: str, port: int) -> Iterator[str]:
    """Serve an application over HTTP while this lasts; give its address.

    Args:
        app: what to serve.
        host: address to listen on, as gRPC takes it.
        port: port to listen on; 0 for any free one.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    bare = host.strip("[]")
    try:
        bound = socket.create_server((bare, port), family=socket.AF_INET6 if ":" in bare else socket.AF_INET)
    except OSError as error:
        got = f"{host}:{port}"
        raise ConfigError(f"host, port: got {got}, which cannot be listened on: {error.strerror}") from error
    with bound:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        # Not in the main thread, where it would take the signals that the caller waits for.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, name="page")
        thread.start()
        try:
            yield f"http://{'localhost' if host in _EVERYWHERE else host}:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def _hosts(host: str) -> list[str]:
    """Return the names that the page may be asked under: any, where it was put on every address of the machine."""
    return ["*"] if host in _EVERYWHERE else sorted({host, *_LOCAL})
