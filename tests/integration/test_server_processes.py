"""Servers that are processes: signals, ports, parents, several of them, and what they do without torchrec."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from processes import WITHOUT_TORCHREC, eventually

from recsys.errors import ConfigError
from recsys.testing import small_bundle
from serving.client import Client
from serving.server import main, serve
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

ROOT = Path(__file__).parents[2]


@contextmanager
def start(*arguments: str, code: str | None = None) -> Iterator[subprocess.Popen[str]]:
    program = ["-m", "serving.server"] if code is None else ["-c", code]
    with subprocess.Popen(
        [sys.executable, *program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


SERVER = """
from serving.server import main

main()
"""


class TestProcess:
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, None), (signal.SIGINT, WITHOUT_TORCHREC + SERVER)])
    def test_it_says_where_it_listens_answers_and_stops_on_a_signal(self, bundles, tmp_path, number, code):
        port_file = tmp_path / "port"
        with start("--bundles", str(bundles), "--port", "0", "--port-file", str(port_file), code=code) as process:
            address = process.stdout.readline().removeprefix("listening on ").strip()
            with Client(address) as client:
                client.wait_until_serving(timeout_s=30)
                assert address == f"127.0.0.1:{port_file.read_text().strip()}"
                assert len(client.recommend(user_id="u3", k=7).items) == 7
                process.send_signal(number)
                _, log = process.communicate(timeout=30)
            assert process.returncode == 0, log
            assert "stopping" in log
            assert "Traceback" not in log

    def test_it_serves_what_current_names_after_sighup(self, tmp_path):
        before = small_bundle(tmp_path).name
        with (
            start("--bundles", str(tmp_path), "--port", "0") as process,
            Client(process.stdout.readline().removeprefix("listening on ").strip()) as client,
        ):
            assert client.describe().bundle_version == before
            after = small_bundle(tmp_path, seed=2).name
            process.send_signal(signal.SIGHUP)
            assert eventually(lambda: client.describe().bundle_version == after)


def children(process):
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = set()
    for pid in listed:
        with suppress(FileNotFoundError):  # it has ended since
            # Not the process that spawning watches resources with.
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


def versions(address, *, num_connections=16):
    """What is served, over connections that the kernel spreads over the processes."""
    found = set()
    for _ in range(num_connections):
        # Channels of one process share a connection unless told otherwise.
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            found.add(CandidateServiceStub(channel).Describe(pb.DescribeRequest(), wait_for_ready=True).bundle_version)
    return found


class TestProcesses:
    def test_two_processes_share_a_port_reload_and_stop_together(self, tmp_path):
        before = small_bundle(tmp_path, num_items=80).name
        with start("--bundles", str(tmp_path), "--port", "0", "--processes", "2") as process:
            address = process.stdout.readline().removeprefix("listening on ").strip()
            first = children(process)
            assert len(first) == 2
            assert versions(address) == {before}
            for several in (1, 2):
                taken = ServerSettings(bundles=tmp_path, port=int(address.split(":")[1]), processes=several)
                with pytest.raises(ConfigError, match=f"got {address}, which cannot be listened on"):
                    serve(taken)

            lost = min(first)
            os.kill(lost, signal.SIGKILL)
            assert eventually(lambda: len(children(process) - {lost}) == 2)
            assert versions(address) == {before}

            after = small_bundle(tmp_path, num_items=80, seed=2).name
            process.send_signal(signal.SIGHUP)
            assert eventually(lambda: versions(address) == {after})

            last = children(process)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=30)
            assert process.returncode == 0, log
            assert f"process {lost} ended with exit code -9; starting another one" in log
            assert "stopping: health is NOT_SERVING" in log
            assert not any(Path(f"/proc/{pid}").exists() for pid in last)

    def test_processes_stop_when_their_parent_is_killed(self, bundles):
        with start("--bundles", str(bundles), "--port", "0", "--processes", "2") as process:
            process.stdout.readline()
            orphans = children(process)
        assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))

    def test_a_process_that_cannot_start_ends_them_all(self, tmp_path):
        with start("--bundles", str(tmp_path), "--port", "0", "--processes", "2") as process:
            out, log = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert f"recsys-serve: error: {tmp_path}" in log
        assert "ended with exit code 1 before it answered calls" in log


class TestMain:
    @pytest.fixture
    def run(self, monkeypatch, capsys):
        def run(*words):
            monkeypatch.setattr(sys, "argv", ["recsys-serve", *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
            return ended.value.code, capsys.readouterr().err

        return run

    def test_a_folder_without_bundles_is_one_readable_line(self, run, tmp_path):
        code, said = run("--bundles", tmp_path, "--port", "0")
        assert code == 2
        assert said.startswith(f"recsys-serve: error: {tmp_path}")
        assert said.count("\n") == 1

    def test_settings_come_from_a_file_and_words_count_more(self, run, tmp_path):
        settings = tmp_path / "server.toml"
        settings.write_text(f'bundles = "{tmp_path / "from-file"}"\nport = 0\n[limits]\nmax_k = 50\n')
        assert f"error: {tmp_path / 'from-file'}" in run("--config-file", settings)[1]
        assert (
            f"error: {tmp_path / 'from-words'}"
            in run("--config-file", settings, "--bundles", tmp_path / "from-words")[1]
        )

    def test_a_key_that_nothing_reads_is_refused_with_the_nearest(self, run, tmp_path):
        settings = tmp_path / "server.toml"
        settings.write_text(f'bundles = "{tmp_path}"\n[limits]\nmax_history_items = 50\n')
        code, said = run("--config-file", settings)
        assert code == 2
        assert "max_history_items" in said
        assert "did you mean 'max_filter_items'?" in said
