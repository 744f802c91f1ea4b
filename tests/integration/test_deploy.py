"""What is deployed: manifests, image and proxy, read by the tools that they are written for."""

from __future__ import annotations

import json
import re
import shlex
import shutil
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
from serving.metrics import Metrics
from serving.server import Server
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "deploy" / "compose.yaml"
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
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


def test_the_autoscaler_asks_for_what_the_adapter_makes():
    (scaler,) = manifests("HorizontalPodAutoscaler")
    asked = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    (adapter,) = manifests("ConfigMap")
    rules = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    assert asked == [rule["name"]["as"] for rule in rules]
    for rule in rules:
        assert series_of(rule["seriesQuery"]) <= exported_series()


def test_the_adapter_s_query_gives_the_delay_of_each_server(tmp_path):
    """The adapter fills in its template; promtool evaluates what comes of it on series of two servers."""
    (adapter,) = manifests("ConfigMap")
    (rule,) = yaml.safe_load(adapter["data"]["config.yaml"])["rules"]
    query = rule["metricsQuery"]
    for name, filled in {
        "Series": "recsys_stage_seconds_bucket",
        "LabelMatchers": 'namespace="default",pod=~"a|b"',
        "GroupBy": "pod",
    }.items():
        query = query.replace(f"<<.{name}>>", filled)
    series = [
        {"series": f'recsys_stage_seconds_bucket{{stage="{stage}",namespace="default",pod="{pod}",le="{le}"}}',
         "values": f"0+{per_minute}x10"}
        for stage, pod, le, per_minute in (
            ("queue", "a", "0.25", 0), ("queue", "a", "0.5", 60), ("queue", "a", "+Inf", 60),
            ("queue", "b", "0.25", 0), ("queue", "b", "0.5", 0), ("queue", "b", "+Inf", 0),
            ("scan", "a", "0.25", 0), ("scan", "a", "0.5", 0), ("scan", "a", "+Inf", 600),
        )
    ]  # fmt: skip
    expected = [{"labels": '{pod="a"}', "value": 0.475}, {"labels": '{pod="b"}', "value": 0}]
    case = {"interval": "1m", "input_series": series}
    case["promql_expr_test"] = [{"expr": query, "eval_time": "10m", "exp_samples": expected}]
    path = tmp_path / "query.json"
    path.write_text(json.dumps({"tests": [case]}))
    promtool("test", "rules", str(path))


def promtool(*arguments: str) -> None:
    """Run Prometheus' own tool, which Debian's package `prometheus` has."""
    if (found := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def series_of(expression: str) -> set[str]:
    return set(re.findall(r"recsys_\w+", expression))


def exported_series() -> set[str]:
    """Return the names of all series that a server may export."""
    endings = {"counter": ("_total",), "gauge": ("",), "info": ("_info",), "summary": ("_count", "_sum")}
    endings["histogram"] = ("_bucket", "_count", "_sum")
    families = Metrics().registry.collect()
    return {family.name + ending for family in families for ending in endings[family.type]}


def test_alerts_are_rules_that_fire_when_they_should_and_ask_for_what_there_is():
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in [rule for group in groups for rule in group["rules"]]:
        assert series_of(rule["expr"]) <= exported_series()
    promtool("check", "rules", str(PROMETHEUS / "rules.yml"))
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    promtool("test", "rules", str(PROMETHEUS / "rules_test.yml"))


def test_the_compose_file_fits_the_compose_specification(tmp_path):
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("read_only: true", "readonly: true"))
    assert tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)).returncode != 0


def test_what_compose_starts_finds_each_other():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    server = services["server"]
    settings = tyro.cli(ServerSettings, args=["--bundles", "/bundles", "--host", "0.0.0.0", *server["command"]])
    assert settings.workers == server["cpus"]
    assert settings.drain_s + settings.grace_s < int(server["stop_grace_period"].removesuffix("s"))
    assert server["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    assert [target for job in scraped for one in job["static_configs"] for target in one["targets"]] == [
        f"server:{settings.metrics_port}"
    ]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/candidates.yml").read_text())["providers"]
    assert f"{provider['options']['path']}/candidates.json" in services["grafana"]["volumes"][1]
    for service in services.values():
        for source, *_ in (volume.split(":") for volume in service.get("volumes", ()) if volume.startswith("./")):
            assert (COMPOSE.parent / source).exists()


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
        with pytest.raises(grpc.RpcError) as hurried:
            stub.Recommend(request, timeout=10)
        assert hurried.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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
