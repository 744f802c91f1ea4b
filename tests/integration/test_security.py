"""TLS, client certificates and bearer tokens, over real sockets, with certificates made on the spot."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from recsys.cli import main
from recsys.errors import ConfigError
from serving.client import Client, ServingError
from serving.security import ClientSecurity, Tokens
from serving.server import Server
from serving.settings import ServerSettings

TOKEN, NEXT_TOKEN = "a-token-of-enough-characters", "another-token-that-follows-it"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={name}",
        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem",
    )  # fmt: skip


def signed(folder: Path, name: str, by: str) -> None:
    asked, extension = folder / f"{name}.csr", folder / f"{name}.ext"
    extension.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    key = folder / f"{name}.key"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", asked)
    openssl(
        "x509", "-req", "-in", asked, "-CA", folder / f"{by}.pem", "-CAkey", folder / f"{by}.key", "-CAcreateserial",
        "-days", 2, "-extfile", extension, "-out", folder / f"{name}.pem",
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("security")
    authority(folder, "ours")
    authority(folder, "theirs")
    signed(folder, "server", "ours")
    signed(folder, "client", "ours")
    signed(folder, "stranger", "theirs")
    (folder / "tokens").write_text(f"{TOKEN}\n{NEXT_TOKEN}\n")
    (folder / "next").write_text(NEXT_TOKEN)
    (folder / "wrong").write_text("a-token-that-nobody-knows")
    return folder


@pytest.fixture(scope="module")
def server(bundles, files):
    """A server that asks for everything: TLS, a certificate of the client's and a token."""
    settings = ServerSettings(
        bundles=bundles, port=0, workers=1, tls_certificate=files / "server.pem", tls_key=files / "server.key",
        client_ca=files / "ours.pem", token_file=files / "tokens",
    )  # fmt: skip
    with Server(settings) as running:
        yield running


def client(server, files, *, ca="ours", who="client", token="tokens"):
    return Client(
        server.address,
        deadline_ms=5000,
        security=ClientSecurity(
            server_ca=files / f"{ca}.pem",
            tls_certificate=None if who is None else files / f"{who}.pem",
            tls_key=None if who is None else files / f"{who}.key",
            token_file=None if token is None else files / token,
        ),
    )


@pytest.mark.parametrize("token", ["tokens", "next"])
def test_whoever_has_certificate_and_token_is_answered(server, files, token):
    with client(server, files, token=token) as ours:
        assert len(ours.recommend(user_id="u1", k=3).items) == 3


@pytest.mark.parametrize("token", ["wrong", None])
def test_without_a_token_of_the_server_s_nothing_is_said_but_health(server, files, token):
    with client(server, files, token=token) as stranger:
        stranger.wait_until_serving(timeout_s=10)
        for call in (stranger.describe, lambda: stranger.recommend(user_id="u1", k=100_000)):
            with pytest.raises(ServingError) as failed:
                call()
            assert failed.value.code is grpc.StatusCode.UNAUTHENTICATED
    counted = {"method": "Recommend", "code": "UNAUTHENTICATED"}
    assert server.metrics.registry.get_sample_value("recsys_calls_total", counted) >= 1


@pytest.mark.parametrize("how", [{"who": None}, {"who": "stranger"}, {"ca": "theirs"}])
def test_without_certificates_that_both_trust_there_is_no_connection(server, files, how):
    with client(server, files, **how) as other, pytest.raises(ServingError) as failed:
        other.recommend(user_id="u1", k=3)
    assert failed.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_in_clear_text_there_is_no_connection(server):
    with Client(server.address, deadline_ms=5000) as other, pytest.raises(ServingError) as failed:
        other.recommend(user_id="u1", k=3)
    assert failed.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    "given", ["", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"bearer {TOKEN}", f"Bearer {TOKEN} {NEXT_TOKEN}"]
)
def test_only_a_whole_token_is_accepted(given):
    tokens = Tokens([TOKEN, NEXT_TOKEN])
    assert not tokens.accept([("authorization", given)])
    assert not tokens.accept([("other", f"Bearer {TOKEN}")])
    assert tokens.accept([("other", "x"), ("authorization", f"Bearer {NEXT_TOKEN}")])


@pytest.mark.parametrize(
    ("content", "expected"), [("", "no token"), ("short\n", "a shorter one"), ("ä" * 20, "other characters")]
)
def test_files_without_usable_tokens_are_refused(tmp_path, content, expected):
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"token_file: {path}: got {expected}"):
        Tokens.read(path)


def test_settings_that_need_each_other(bundles, files):
    with pytest.raises(ConfigError, match="tls_certificate, tls_key: got"):
        ServerSettings(bundles=bundles, tls_key=files / "server.key")
    with pytest.raises(ConfigError, match="client_ca: got"):
        ServerSettings(bundles=bundles, client_ca=files / "ours.pem")
    with pytest.raises(ConfigError, match="tls_certificate, tls_key: got them without server_ca"):
        ClientSecurity(tls_key=files / "client.key", tls_certificate=files / "client.pem")
    with pytest.raises(ConfigError, match=r"server_ca: .*: cannot be read: No such file"):
        Client("localhost:1", security=ClientSecurity(server_ca=files / "nowhere.pem"))


def test_the_command_line_brings_what_a_server_asks_for(server, files, capsys, monkeypatch):
    asked = ["recsys", "recommend", "--user", "u3", "--k", "4", "--address", server.address]
    proofs = {"server-ca": "ours.pem", "tls-certificate": "client.pem", "tls-key": "client.key", "token-file": "tokens"}
    options = [word for name, file in proofs.items() for word in (f"--security.{name}", str(files / file))]
    monkeypatch.setattr(sys, "argv", [*asked, *options])
    main()
    assert len(capsys.readouterr().out.splitlines()) == 5
    monkeypatch.setattr(sys, "argv", [*asked, *options[:-1], str(files / "wrong")])
    with pytest.raises(SystemExit) as failed:
        main()
    assert failed.value.code == 1
    assert "UNAUTHENTICATED" in capsys.readouterr().err


def test_an_explorer_brings_what_a_server_asks_for(server, files):
    pytest.importorskip("starlette")
    from serving.explorer.verb import ExploreOptions, sources_of

    security = ClientSecurity(
        server_ca=files / "ours.pem", tls_certificate=files / "client.pem", tls_key=files / "client.key",
        token_file=files / "tokens",
    )  # fmt: skip
    with sources_of(ExploreOptions(address=server.address, security=security)) as sources:
        assert sources.client.describe().num_items > 0
    with pytest.raises(ConfigError, match="security: got it without address"):
        ExploreOptions(bundles=files, security=security)
