"""What the browser gets from the page's own server, over HTTP, of a real server over gRPC."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from ladders import serve_three_steps
from processes import eventually

from recsys.errors import ArtifactError, ConfigError
from serving.client import Client
from serving.explorer.app import STATIC, Sources, make_app
from serving.explorer.names import BundleNames
from serving.explorer.verb import ExploreOptions, explore, listening, sources_of
from serving.server import Server
from serving.settings import ServerSettings

ROOT = Path(__file__).parents[2]
HOSTS = ("127.0.0.1", "localhost")


@pytest.fixture(scope="module")
def server(bundles):
    with Server(ServerSettings(bundles=bundles, port=0, workers=2)) as running:
        serve_three_steps(running.live.engine)
        yield running


@pytest.fixture(scope="module")
def page(client, bundles):
    with listening(
        make_app(Sources(client=client, names=BundleNames(bundles)), hosts=HOSTS), host="127.0.0.1", port=0
    ) as url:
        yield url


def get(url: str, name: str, **query):
    with urlopen(f"{url}api/{name}?{urlencode(query, doseq=True)}") as response:
        return json.load(response)


def refused(url: str, name: str, **query):
    with pytest.raises(HTTPError) as failed:
        get(url, name, **query)
    with failed.value as response:
        return response.status, json.load(response)["error"]


class TestAnswers:
    def test_the_service_is_what_the_server_describes(self, page, client):
        told, described = get(page, "service"), client.describe()
        assert told["bundle_version"] == described.bundle_version
        assert told["widths"] == [4, 8, 16]
        assert [rung["name"] for rung in told["rungs"]] == [rung.name for rung in described.rungs]
        assert told["rungs"][0]["overlaps"] == {"10": 0.3, "100": pytest.approx(0.2)}
        assert (told["has_names"], told["has_traffic"]) == (True, False)

    @pytest.mark.parametrize(
        ("budget", "width"),
        [({"budget_ms": 1500}, 4), ({"budget_ms": 3000}, 8), ({"width": 8}, 8), ({"min_overlap": 0.9}, 16)],
    )
    def test_an_answer_stands_beside_that_of_the_full_width(self, page, client, budget, width):
        told = get(page, "recommend", id="u3", k=10, **budget)
        answer = client.recommend(user_id="u3", k=10, include_titles=True, **budget)
        truth = client.recommend(user_id="u3", k=10, width=16)
        assert (told["answer"]["width"], told["truth"]["width"]) == (width, 16)
        assert [item["title"] for item in told["answer"]["items"]] == [item.title for item in answer.items]
        assert [item["item_id"] for item in told["truth"]["items"]] == [item.item_id for item in truth.items]
        kept = {item.item_id for item in answer.items} & {item.item_id for item in truth.items}
        assert told["overlap"] == len(kept) / 10
        assert told["answer"]["timings"]["total_ms"] >= told["answer"]["timings"]["scan_ms"]

    def test_a_narrow_width_loses_what_the_page_then_marks(self, page):
        told = get(page, "recommend", id="u3", k=20, width=4)
        assert told["overlap"] < 1
        assert {item["mark"] for item in told["answer"]["items"]} >= {"gained"}
        assert {item["mark"] for item in told["truth"]["items"]} >= {"lost"}

    def test_somebody_new_is_asked_for_by_what_they_did(self, page, client):
        told = get(page, "recommend", item=["i5", "i7", "unheard of"], k=5, width=16)
        answer = client.recommend(history=["i5", "i7"], k=5, width=16)
        assert [item["item_id"] for item in told["answer"]["items"]] == [item.item_id for item in answer.items]
        assert (told["num_unknown"], told["cold"]) == (1, False)
        assert get(page, "recommend", k=5, width=16)["cold"]

    def test_a_time_too_short_is_told(self, page):
        assert get(page, "recommend", id="u3", k=5, budget_ms=0.001)["answer"]["degraded"] == ["time_too_short"]

    def test_both_answers_pass_the_filter(self, page):
        told = get(page, "recommend", id="u3", k=5, width=8, feature=["genre", "genre"], value=["western", "drama"])
        titles = [item["title"] for name in ("answer", "truth") for item in told[name]["items"]]
        assert len(titles) == 10
        assert all(title.startswith(("A western", "A drama")) for title in titles)
        assert "western" in next(
            each["values"] for each in get(page, "service")["item_features"] if each["name"] == "genre"
        )
        told = get(page, "similar", item="i3", k=5, width=8, feature="genre", value="unheard of")
        assert (told["answer"]["items"], told["overlap"]) == ([], None)
        assert told["answer"]["num_unknown_filter_values"] == 1

    def test_similar_items_stand_beside_those_of_the_full_width(self, page, client):
        told = get(page, "similar", item="i5", k=8, width=4)
        truth = client.similar_items("i5", k=8, width=16)
        assert [item["item_id"] for item in told["truth"]["items"]] == [item.item_id for item in truth.items]
        assert told["answer"]["width"] == 4

    def test_users_and_items_are_found_in_the_bundle_that_answers(self, page):
        assert get(page, "users", text="u1")[0]["user_id"] == "u1"
        item = get(page, "items", text="i7")[0]
        assert (item["item_id"], item["title"].split()[-1]) == ("i7", "7")
        assert get(page, "user", id="u1")["user_id"] == "u1"
        assert get(page, "user", id="nobody") is None


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"id": "u3", "k": 0}, "k"),
            ({"id": "u3", "k": "many"}, "k"),
            ({"id": "u3", "width": 5}, "budget.width"),
            ({"id": "u3", "width": -1}, "budget.width"),
            ({"id": "u3", "budget_ms": "nan"}, "budget.time_ms"),
            ({"id": "u3", "budget_ms": 5, "width": 4}, "budget"),
            ({"id": ""}, "user.id"),
            ({"id": "u3", "feature": "colour", "value": "red"}, "filter.include['colour']"),
            ({"id": "u3", "feature": "genre"}, "feature, value"),
        ],
    )
    def test_what_cannot_be_asked_names_the_field(self, page, query, field):
        status, error = refused(page, "recommend", **query)
        assert (status, error["field"]) == (400, field)
        assert error["message"].startswith(f"{field}: got")

    def test_an_unknown_item_has_no_neighbours(self, page):
        status, error = refused(page, "similar", item="unheard of")
        assert (status, error["field"]) == (400, "item_id")

    def test_a_server_that_is_away_is_told_in_plain_words(self):
        with (
            Client("127.0.0.1:1", deadline_ms=5000) as away,
            listening(make_app(Sources(client=away), hosts=HOSTS), host="127.0.0.1", port=0) as url,
        ):
            status, error = refused(url, "recommend", id="u3")
        assert status == 503
        assert error["message"] == "The server at 127.0.0.1:1 does not answer. Is it running?"
        assert "UNAVAILABLE" in error["detail"]

    def test_bundles_that_are_not_those_of_the_server_are_told(self, client, tmp_path):
        sources = Sources(client=client, names=BundleNames(tmp_path))
        with listening(make_app(sources, hosts=HOSTS), host="127.0.0.1", port=0) as url:
            status, error = refused(url, "users", text="u1")
            assert get(url, "recommend", id="u3", width=4)["answer"]["items"]
        assert status == 502
        assert str(tmp_path) in error["message"]

    def test_without_bundles_there_are_ids_but_no_names(self, client):
        with listening(make_app(Sources(client=client), hosts=HOSTS), host="127.0.0.1", port=0) as url:
            assert not get(url, "service")["has_names"]
            assert (get(url, "users", text="u"), get(url, "items", text="a"), get(url, "user", id="u3")) == (
                [],
                [],
                None,
            )
            assert len(get(url, "recommend", id="u3", k=5, width=4)["answer"]["items"]) == 5


class TestOtherSites:
    def test_another_name_for_this_machine_is_refused(self, page):
        for path in ("", "api/service", "static/page.js"):
            with pytest.raises(HTTPError) as failed:
                urlopen(Request(page + path, headers={"Host": "evil.example"}))
            assert failed.value.status == 400
            failed.value.close()

    @pytest.mark.parametrize("path", ["", "api/service", "static/page.js", "api/recommend?k=0", "nowhere"])
    def test_every_response_keeps_other_sites_out(self, page, path):
        try:
            response = urlopen(page + path)
        except HTTPError as error:
            response = error
        with response:
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert response.headers["access-control-allow-origin"] is None

    def test_nothing_is_written_through_it(self, page):
        for method in ("POST", "PUT", "DELETE"):
            with pytest.raises(HTTPError) as failed:
                urlopen(Request(f"{page}api/recommend?k=5", method=method))
            assert failed.value.status == 405
            failed.value.close()

    def test_no_file_names_another_host(self):
        for path in STATIC.iterdir():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "").replace("https://www.w3.org/WAI/", "")
            assert "//" not in text.replace("// ", ""), path


class TestVerb:
    def test_a_folder_of_bundles_is_enough(self, bundles):
        with (
            sources_of(ExploreOptions(bundles=bundles)) as sources,
            listening(make_app(sources, hosts=HOSTS), host="127.0.0.1", port=0) as url,
        ):
            get(url, "traffic")
            get(url, "recommend", id="u3", k=5, width=16)
            # A call has ended for its client a moment before it is counted.
            assert eventually(lambda: get(url, "traffic")["widths"] == {"16": 2})
            traffic = get(url, "traffic")
        assert traffic["window_s"] > 0
        assert traffic["p99_ms"] > 0
        assert traffic["calls_per_s"].keys() == {"OK"}

    def test_the_program_says_where_its_page_is_and_stops_on_a_signal(self, bundles):
        process = subprocess.Popen(
            [Path(sys.executable).parent / "recsys", "explore", "--bundles", bundles, "--port", "0"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            url = process.stdout.readline().split()[1]
            assert get(url, "service")["num_items"] == 1000
            process.send_signal(signal.SIGINT)
            _, log = process.communicate(timeout=60)
            assert process.returncode == 0, log
            assert "Traceback" not in log
        finally:
            process.kill()

    def test_a_taken_port_is_refused_by_name(self, page, server):
        port = int(page.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(ConfigError, match=f"host, port: got 127.0.0.1:{port}, which cannot be listened on"):
            explore(ExploreOptions(address=server.address, port=port), ready=pytest.fail)

    def test_a_folder_without_bundles_is_refused(self, tmp_path):
        with pytest.raises(ArtifactError, match=str(tmp_path)):
            explore(ExploreOptions(bundles=tmp_path), ready=pytest.fail)

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({}, "bundles, address"),
            ({"bundles": Path(), "metrics": "http://x"}, "metrics"),
            ({"address": "x", "port": -1}, "port"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, options, field):
        with pytest.raises(ConfigError, match=f"^{field}: got"):
            ExploreOptions(**options)


def test_a_wheel_has_every_file_of_the_page(tmp_path):
    source = tmp_path / "source"
    for folder in ("recsys", "serving", "data"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", tmp_path], cwd=source, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"serving/explorer/static/{path.name}" for path in STATIC.iterdir()} <= packed
