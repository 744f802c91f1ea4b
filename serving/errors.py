"""What can go wrong with a call besides what it asked for."""

from __future__ import annotations

import grpc

from recsys.errors import RecsysError
from serving.admission import Priority, Refusal


class ServingError(RecsysError):
    """A call failed for another reason than what it asked for, as a client sees it.

    Attributes:
        code: the gRPC status.
        retry_after_ms: when to try again, where the server is busy and says so.
    """

    exit_code = 1

    def __init__(self, message: str, *, code: grpc.StatusCode, retry_after_ms: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_ms = retry_after_ms


class OverloadedError(RecsysError):
    """The server is too busy for a call.

    Attributes:
        refusal: why, and when to try again.
        priority: whose call it was.
    """

    def __init__(self, refusal: Refusal, *, priority: Priority) -> None:
        super().__init__(f"busy: {refusal.reason.value}")
        self.refusal = refusal
        self.priority = priority
