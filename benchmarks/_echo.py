"""Servers that do nothing, of each kind that gRPC offers in Python: what a call costs before any work is done.

python -m benchmarks._echo KIND PORT    # sync or aio; prints ``listening on HOST:PORT`` and serves until SIGTERM
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc

from serving.server import server_options

METHOD = "/benchmarks.Echo/Nothing"


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, answer: Any) -> None:
        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        del handler_call_details  # whatever is called
        return self._handler


@contextmanager
def echo(kind: str, *, processes: int = 1) -> Iterator[str]:
    """Run an echo server, in as many processes as asked for, on one port; yield its address."""
    with ExitStack() as running:
        address = running.enter_context(_process(kind, port=0))
        for _ in range(processes - 1):
            running.enter_context(_process(kind, port=int(address.split(":")[1])))
        yield address


@contextmanager
def _process(kind: str, *, port: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks._echo", kind, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip().removeprefix("listening on ")
        finally:
            process.terminate()


def _sync(port: int) -> None:
    server = grpc.server(ThreadPoolExecutor(os.cpu_count()), options=server_options(share_port=True))
    server.add_generic_rpc_handlers((_Handlers(lambda _request, _context: b""),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


async def _aio(port: int) -> None:
    async def answer(_request: bytes, _context: Any) -> bytes:
        return b""

    server = grpc.aio.server(options=server_options(share_port=True))
    server.add_generic_rpc_handlers((_Handlers(answer),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "sync":
        _sync(port)
    else:
        asyncio.run(_aio(port))
