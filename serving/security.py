"""Who may call: TLS, client certificates and bearer tokens, all from files.

Tokens protect what is asked of the candidates; health and reflection answer anybody who can connect, since probes of
orchestrators send none. Tokens are compared in constant time and are never logged.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from recsys.errors import ConfigError

HEADER = "authorization"
_SCHEME = "Bearer "
_LEAST_LENGTH = 16


class Tokens:
    """The tokens that are accepted.

    Args:
        tokens: at least one.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """Read a file of tokens, one a line: while one replaces another, both are accepted.

        Raises:
            ConfigError: the file cannot be read, has no token, or one that is too short to be a secret.
        """
        tokens = _words(path)
        if not tokens or min(map(len, tokens)) < _LEAST_LENGTH:
            got = "no token" if not tokens else "a shorter one"
            raise ConfigError(f"token_file: {path}: got {got}, expected tokens of {_LEAST_LENGTH} characters or more")
        return cls(tokens)

    def accept(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Return whether a call's metadata brings one of the tokens."""
        given = next((value for key, value in metadata if key == HEADER), "")
        text = given if isinstance(given, str) else ""
        if not text.startswith(_SCHEME):
            return False
        token = text.removeprefix(_SCHEME).encode()
        # All of them, and each in constant time: how long it takes says nothing about which one is near.
        return sum(hmac.compare_digest(token, known) for known in self._tokens) > 0


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Return what a server proves itself with, and what it asks of clients if ``client_ca`` is given (mutual TLS).

    Raises:
        ConfigError: a file cannot be read.
    """
    pair = read_file("tls_key", key), read_file("tls_certificate", certificate)
    roots = None if client_ca is None else read_file("client_ca", client_ca)
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=client_ca is not None)


@dataclass(frozen=True, kw_only=True)
class ClientSecurity:
    """Whom a client trusts, and what it proves itself with.

    Args:
        server_ca: PEM file of the authorities that the server's certificate may come from; with it, TLS is spoken.
        tls_certificate: PEM file of the client's own certificate, where the server asks for one.
        tls_key: PEM file of its private key.
        token_file: file whose first word is the bearer token to bring, where the server asks for one.

    Raises:
        ConfigError: a setting needs another one.
    """

    server_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("tls_certificate, tls_key: got one of them, expected both or none")
        if self.tls_key is not None and self.server_ca is None:
            raise ConfigError("tls_certificate, tls_key: got them without server_ca, expected all three")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a channel takes, None for clear text; `ConfigError` where a file cannot be read."""
        if self.server_ca is None:
            return None
        certificate, key = self.tls_certificate, self.tls_key
        return grpc.ssl_channel_credentials(
            read_file("server_ca", self.server_ca),
            None if key is None else read_file("tls_key", key),
            None if certificate is None else read_file("tls_certificate", certificate),
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what every call brings; `ConfigError` where the token's file cannot be read, or is empty."""
        if self.token_file is None:
            return ()
        tokens = _words(self.token_file)
        if not tokens:
            raise ConfigError(f"token_file: {self.token_file}: got no token, expected one")
        return ((HEADER, _SCHEME + tokens[0]),)


def _words(token_file: Path) -> list[str]:
    try:
        return read_file("token_file", token_file).decode("ascii").split()
    except UnicodeDecodeError as error:
        raise ConfigError(f"token_file: {token_file}: got other characters than ASCII, expected tokens") from error


def read_file(name: str, path: Path) -> bytes:
    """Read the file that a setting names; `ConfigError` where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {path}: cannot be read: {error.strerror}") from error
