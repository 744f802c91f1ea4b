"""What can go wrong with a call besides what it asked for, as a client sees it."""

from __future__ import annotations

import grpc

from recsys.errors import RecsysError


class ServingError(RecsysError):
    """A call failed for another reason than what it asked for.

    Attributes:
        code: the gRPC status.
    """

    exit_code = 1

    def __init__(self, message: str, *, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code
