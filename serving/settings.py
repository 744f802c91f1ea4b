"""Everything that can be set about a server."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from recsys.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest request that is answered; a larger one is refused with the field that is too large."""

    max_k: int = 1000
    """Items per answer."""
    max_history: int = 10_000
    """Items in a request's history."""
    max_exclusions: int = 10_000
    """Items that a request may exclude."""
    max_batch: int = 256
    """Users in a batch."""
    max_filter_items: int = 10_000
    """Items that a filter may name."""
    max_filter_values: int = 1_000
    """Values that a filter may name, of all features together."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _require(getattr(self, each.name) >= 1, f"limits.{each.name}", getattr(self, each.name), "at least 1")


@dataclass(frozen=True, kw_only=True)
class ShadowSettings:
    """The sample of answers that are searched again exactly, to measure and correct the overlap that answers claim."""

    share: float = 0.001
    """Share of answers; 0 for none."""
    max_per_s: float = 1.0
    """Most of them per second; each takes an exact search of the catalogue, on a thread of the lowest priority."""
    max_waiting: int = 16
    """Most that wait to be measured; one more is dropped."""
    seed: int = 1
    """Fixes which answers of a series are chosen."""

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, "shadow.share", self.share, "0 to 1")
        _require(0 < self.max_per_s < math.inf, "shadow.max_per_s", self.max_per_s, "a finite number above 0")
        _require(self.max_waiting >= 1, "shadow.max_waiting", self.max_waiting, "at least 1")


@dataclass(frozen=True, kw_only=True)
class CatalogueLimits:
    """How much of the catalogue may change between bundles."""

    max_delta_items: int = 10_000
    """Items beside the bundle's: each search scores all of them at full width."""
    max_changes: int = 1000
    """Items or ids that one call may name."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _require(
                getattr(self, each.name) >= 1, f"catalogue_limits.{each.name}", getattr(self, each.name), "at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """One server, of one process or several."""

    bundles: Path
    """Folder that `recsys publish` writes bundles to; its CURRENT is served, and read again on SIGHUP."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 or [::] for all of the machine's."""
    port: int = 50051
    """Port to listen on; 0 for any free one."""
    port_file: Path | None = None
    """Where to write the port once calls are answered, for scripts that start a server on port 0."""
    processes: int = 1
    """Processes that share the port, the workers and the calls that may wait; each loads the bundle."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Calls that are worked on at once, one thread each; past the number of cores they only slow each other down."""
    max_waiting: int = 256
    """Calls that may wait for a worker at most; fewer do where waiting makes calls late (`serving.admission`)."""
    max_unread: int = 256
    """Calls that may have arrived without being looked at; past a quarter of that some are refused, past it all are.
    gRPC does that before Python has a part in it, with CANCELLED and no word of when to come back. Looking at a call
    takes about .3 ms: budgets of tens of milliseconds want 16, bursts of calls that may take longer want more."""
    dimmer: bool = True
    """Put a price on time while calls wait, so that overload costs overlap before it costs answers."""
    deadline_margin_ms: float = 1.0
    """Kept back of a call's deadline for the answer's way to the client."""
    drain_s: float = 0.0
    """How long calls are still taken after health turned NOT_SERVING, for load balancers to notice."""
    grace_s: float = 10.0
    """How long calls in flight may take after that."""
    metrics_port: int | None = None
    """Port of an HTTP page for Prometheus: 0 for any free one, none for no page. Of several processes the first has it,
    and each other one the next."""
    log_format: Literal["text", "json"] = "text"
    """Form of the lines on standard error: text for people, json for programs."""
    slow_call_ms: float = 100.0
    """An answer that takes longer is logged, with where its time went; no more than a few lines per second."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate chain; with it and tls_key, only TLS is spoken."""
    tls_key: Path | None = None
    """PEM file of the certificate's private key."""
    client_ca: Path | None = None
    """PEM file of the authorities whose certificates clients must bring (mutual TLS)."""
    token_file: Path | None = None
    """File of bearer tokens, one a line; a call that brings none of them is refused with UNAUTHENTICATED."""
    reflection: bool = False
    """Let tools such as grpcurl ask for the service's schema."""
    limits: Limits = field(default_factory=Limits)
    """The largest request that is answered."""
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    """The sample of answers that are searched again exactly."""
    catalogue: Path | None = None
    """Folder to keep changes of the catalogue in; made if missing. With none, none are taken: whoever reaches the port
    could make them."""
    catalogue_limits: CatalogueLimits = field(default_factory=CatalogueLimits)
    """How much may change."""

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "port", self.port, "0 to 65535")
        if self.metrics_port is not None:
            highest = 65536 - self.processes
            _require(0 <= self.metrics_port <= highest, "metrics_port", self.metrics_port, f"0 to {highest}, or none")
        _require(self.processes >= 1, "processes", self.processes, "at least 1")
        _require(self.workers >= 1, "workers", self.workers, "at least 1")
        _require(self.max_unread >= 4, "max_unread", self.max_unread, "at least 4")
        _require(self.max_waiting >= 0, "max_waiting", self.max_waiting, "0 or more")
        _require(
            (self.tls_certificate is None) == (self.tls_key is None),
            "tls_certificate, tls_key",
            [self.tls_certificate, self.tls_key],
            "both or none",
        )
        _require(
            self.client_ca is None or self.tls_key is not None, "client_ca", self.client_ca, "it with tls_key only"
        )
        for name in ("deadline_margin_ms", "drain_s", "grace_s", "slow_call_ms"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "a finite number, 0 or more")


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {got!r}, expected {expected}")
