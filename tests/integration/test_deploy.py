"""What is deployed: manifests, image and proxy, read by the tools that they are written for."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import kubernetes_validate
import pytest
import tyro
import yaml

from serving.catalogue_client import CatalogueClient
from serving.client import Client, ServingError
from serving.server import Server
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVOY = ROOT / "deploy" / "envoy" / "envoy.yaml"
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.30"


def manifests(kind: str | None = None) -> list[dict]:
    every = [manifest for path in MANIFESTS for manifest in yaml.safe_load_all(path.read_text())]
    return [manifest for manifest in every if kind in (None, manifest["kind"])]


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN / name, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("manifest", manifests(), ids=lambda manifest: manifest["kind"])
def test_manifests_are_valid_kubernetes(manifest):
    assert kubernetes_validate.validate(manifest, KUBERNETES, strict=True) == KUBERNETES


def test_a_manifest_with_a_wrong_field_is_refused():
    (deployment,) = manifests("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="livenesProbe"):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)


def deployed() -> tuple[dict, dict, ServerSettings]:
    """Return the pod, its container, and the settings that the image's entry point and the arguments come to."""
    (deployment,) = manifests("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", (ROOT / "deploy" / "Containerfile").read_text(), re.MULTILINE)
    words = [*json.loads(entry[1])[1:], *container["args"]]
    return pod, container, tyro.cli(ServerSettings, args=words)


def test_the_deployment_starts_the_server_as_it_means_to():
    pod, container, settings = deployed()
    assert settings.host == "0.0.0.0"
    assert [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "bundles"] == ["/bundles"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    (deployment,) = manifests("Deployment")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    assert container["readinessProbe"]["grpc"]["port"] == settings.port
    assert settings.workers == int(container["resources"]["limits"]["cpu"])
    assert settings.drain_s + settings.grace_s < pod["terminationGracePeriodSeconds"]
    probe = container["readinessProbe"]
    assert settings.drain_s > probe["periodSeconds"] * probe["failureThreshold"]


def test_all_that_selects_servers_selects_the_same():
    (deployment,) = manifests("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifests("Service")[0]["spec"]["selector"] == labels
    assert manifests("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"] == labels
    volumes = {volume["name"]: volume for volume in deployment["spec"]["template"]["spec"]["volumes"]}
    (claim,) = manifests("PersistentVolumeClaim")
    assert volumes["bundles"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    scaled = manifests("HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])


def test_the_containerfile_passes_its_linter():
    checked = tool("hadolint", str(ROOT / "deploy" / "Containerfile"))
    assert checked.returncode == 0, checked.stdout


def test_what_the_image_copies_is_there_and_not_ignored():
    lines = (ROOT / "deploy" / "Containerfile").read_text().splitlines()
    words = [shlex.split(line)[1:] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = {source for line in words for source in line[:-1]}
    let_in = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)


def test_envoy_accepts_its_configuration():
    checked = tool("envoy", "--mode", "validate", "-c", str(ENVOY))
    assert checked.returncode == 0, checked.stderr


def beside(server: Server, folder: Path) -> tuple[Path, str]:
    """Write the configuration for a server on this machine; return its path and the address to call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    content = yaml.safe_load(ENVOY.read_text())
    (listener,), (cluster,) = content["static_resources"]["listeners"], content["static_resources"]["clusters"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    endpoint["endpoint"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": server.port}
    path = folder / "envoy.json"
    path.write_text(json.dumps(content))
    return path, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def behind_envoy(bundles, tmp_path_factory):
    with Server(ServerSettings(bundles=bundles, port=0, deadline_margin_ms=20_000)) as server:
        path, address = beside(server, tmp_path_factory.mktemp("envoy"))
        options = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"]
        running = subprocess.Popen([BIN / "envoy", "-c", path, *options])
        try:
            yield server, address
        finally:
            running.terminate()
            running.wait(timeout=30)


def test_calls_pass_through_envoy_with_their_deadlines(behind_envoy):
    server, address = behind_envoy
    request = pb.RecommendRequest(user=pb.User(history=pb.History()), k=5)
    with grpc.insecure_channel(address) as channel, Client(server.address) as straight:
        stub = CandidateServiceStub(channel)
        roomy = stub.Recommend(request, timeout=120, wait_for_ready=True)
        assert roomy.items == straight.recommend(history=[], k=5).items
        # The server keeps 20 s of a deadline back; Envoy's own for a route would be 15 s.
        assert not roomy.report.degraded_reasons
        assert not stub.Recommend(request).report.degraded_reasons
        hurried = stub.Recommend(request, timeout=10)
        assert list(hurried.report.degraded_reasons) == [pb.DEGRADED_REASON_TIME_TOO_SHORT]


def test_refusals_pass_through_envoy(behind_envoy):
    _, address = behind_envoy
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            CandidateServiceStub(channel).Recommend(pb.RecommendRequest(k=0), timeout=30, wait_for_ready=True)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_envoy_lets_nobody_change_the_catalogue(behind_envoy):
    _, address = behind_envoy
    with CatalogueClient(address, deadline_ms=30_000) as catalogue, pytest.raises(ServingError) as refused:
        catalogue.delete(["i1"])
    assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED
