"""Whether calls are traced: asked for by OpenTelemetry's own environment variables, and with the extra ``tracing``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from recsys.errors import ConfigError

if TYPE_CHECKING:
    from serving.spans import Spans

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")


def spans_from_environment() -> Spans | None:
    """Return what traces calls, or None where the environment does not ask for traces.

    They are asked for by an OTLP endpoint or by ``OTEL_TRACES_EXPORTER=otlp``, unless ``OTEL_SDK_DISABLED`` is true;
    the sampler, the service's name and the rest are OpenTelemetry's own variables too.

    Raises:
        ConfigError: the extra is not installed, or what is asked for is another exporter than OTLP or another protocol
            than gRPC.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip()
    wanted = exporter or any(os.environ.get(name) for name in _ENDPOINTS)
    if not wanted or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter not in ("", "otlp"):
        raise ConfigError(f"OTEL_TRACES_EXPORTER: got {exporter!r}, expected 'otlp' or 'none'")
    for name in _PROTOCOLS:
        if (protocol := os.environ.get(name, "grpc")) != "grpc":
            raise ConfigError(f"{name}: got {protocol!r}, expected 'grpc', at a collector's port for it (4317)")
    try:
        from serving.spans import Spans, otlp_provider
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the environment asks for OpenTelemetry traces, which need {error.name}: "
            "pip install 'matryoshka-recsys[tracing]', or set OTEL_SDK_DISABLED=true"
        ) from error
    return Spans(otlp_provider())
