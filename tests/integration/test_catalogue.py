"""Changes of the catalogue on real servers: under concurrent search, killed, in several processes, published."""

import itertools
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest

from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.changes import read_changes
from recsys.data.dataset import Dataset
from recsys.errors import RequestError
from recsys.testing import small_bundle, small_dataset, small_towers
from serving.catalogue_client import CatalogueClient, item
from serving.client import Client, ServingError
from serving.metrics import exported
from serving.server import Server
from serving.settings import CatalogueLimits, ServerSettings
from serving.v1 import candidates_pb2

ROOT = Path(__file__).parents[2]
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def settings(bundles, tmp_path):
    limits = CatalogueLimits(max_delta_items=400, max_changes=100)
    return ServerSettings(bundles=bundles, port=0, workers=4, catalogue=tmp_path / "changes", catalogue_limits=limits)


@contextmanager
def serving(settings):
    with (
        Server(settings) as server,
        Client(server.address) as client,
        CatalogueClient(server.address, deadline_ms=60_000) as catalogue,
    ):
        yield server, client, catalogue


def drama(name):
    return item(name, title=f"The {name}", features={"genre": "drama"})


def ids(answer):
    return [item.item_id for item in answer.items]


def test_changes_over_grpc(settings):
    with serving(settings) as (server, client, catalogue):
        before = catalogue.describe()
        assert (before.sequence, before.num_items, before.num_bundle_items) == (0, 1000, 1000)
        assert (before.max_delta_items, before.max_changes) == (400, 100)
        names = {feature.name: feature for feature in before.item_features}
        assert names.keys() == {"genre", "title"}
        assert names["genre"].kind == candidates_pb2.FEATURE_KIND_MULTI_HOT
        assert "drama" in names["genre"].values
        done = catalogue.upsert([drama("new"), item("i5", features={"genre": ["war", "drama"]})])
        assert (done.sequence, done.num_new, done.num_replaced) == (1, 1, 1)
        twin = item("twin", vector=server.live.engine.bundle.item_vectors[7].tolist())
        assert catalogue.upsert([twin]).sequence == 2
        answer = client.similar_items("i7", k=1, width=16, include_titles=True)
        assert (ids(answer), answer.items[0].title) == (["twin"], "twin")
        gone = catalogue.delete(["twin", "i6", "unheard of"])
        assert (gone.sequence, gone.num_deleted) == (3, 2)
        assert "twin" not in ids(client.similar_items("i7", k=1000))
        after = catalogue.describe()
        assert (after.num_items, after.num_delta_items, after.num_tombstones) == (1000, 2, 2)
        with exported(server.metrics, host="127.0.0.1", port=0) as port, urlopen(f"http://127.0.0.1:{port}/") as page:
            text = page.read().decode()
        for line in (
            "recsys_catalogue_delta_items 2.0",
            "recsys_catalogue_tombstones 2.0",
            "recsys_catalogue_sequence 3.0",
            'recsys_catalogue_changes_total{kind="upsert"} 3.0',
            'recsys_catalogue_changes_total{kind="delete"} 3.0',
            'recsys_calls_total{code="OK",method="UpsertItems"} 2.0',
        ):
            assert line in text


def test_refusals_name_the_field_or_ask_for_a_new_bundle(settings):
    with serving(settings) as (_, _, catalogue):
        with pytest.raises(RequestError) as refused:
            catalogue.upsert([drama("a"), item("b", features={"gnere": "drama"})])
        assert refused.value.field == "items[1].features['gnere']"
        for start in range(0, 400, 100):
            catalogue.upsert([drama(f"n{number}") for number in range(start, start + 100)])
        with pytest.raises(ServingError, match="publish a bundle with `recsys publish --catalogue`") as full:
            catalogue.upsert([drama("one more")])
        assert full.value.code is grpc.StatusCode.FAILED_PRECONDITION
        assert catalogue.describe().sequence == 4


def test_without_a_folder_no_change_is_taken(settings):
    with serving(replace(settings, catalogue=None)) as (_, _, catalogue):
        with pytest.raises(ServingError) as failed:
            catalogue.upsert([drama("new")])
        assert failed.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_searches_go_on_while_items_come_and_go(settings):
    """Nothing deleted before a search began comes back, what was put in before is found, and all k are distinct."""
    stop, lock = threading.Event(), threading.Lock()
    deleted, present = set(), {}

    def change(catalogue, bundle):
        for number in range(60):
            near = item(f"n{number}", vector=bundle.item_vectors[7].tolist())
            catalogue.upsert([near, drama(f"i{100 + number}")])
            with lock:
                present[f"n{number}"] = True
            if number >= 5:
                with lock:
                    present.pop(f"n{number - 5}")
                catalogue.delete([f"n{number - 5}", f"i{200 + number}"])
                with lock:
                    deleted.update([f"n{number - 5}", f"i{200 + number}"])
        stop.set()

    def search(client, widths):
        count = 0
        while not stop.is_set() or count < 5:
            with lock:
                gone, there = set(deleted), set(present)
            answer = ids(client.similar_items("i7", k=50, width=next(widths)))
            with lock:
                stayed = there & present.keys()
            assert len(answer) == len(set(answer)) == 50
            assert not gone & set(answer)
            assert stayed <= set(answer)
            count += 1
        return count

    with serving(settings) as (server, client, catalogue), ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change, catalogue, server.live.engine.bundle)
        changing.add_done_callback(lambda _: stop.set())
        searching = [pool.submit(search, client, itertools.cycle((4, 8, 16))) for _ in range(3)]
        changing.result()
        assert min(one.result() for one in searching) >= 5


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder of one bundle that servers open quickly."""
    root = tmp_path_factory.mktemp("few")
    small_bundle(root)
    return root


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "serving.server", "--port", "0", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address_of(process):
    return process.stdout.readline().removeprefix("listening on ").strip()


def test_a_killed_server_has_every_change_that_it_acknowledged(few, tmp_path):
    arguments = ["--bundles", str(few), "--catalogue", str(tmp_path / "changes")]
    acknowledged = {}
    for life in range(2):
        process = start(*arguments)
        try:
            with CatalogueClient(address_of(process), deadline_ms=60_000) as catalogue:
                now = catalogue.describe()
                assert now.num_delta_items >= len(acknowledged)
                assert now.sequence >= max(acknowledged.values(), default=0)

                def write(life=life, catalogue=catalogue):
                    for number in itertools.count():
                        name = f"n{life}-{number}"
                        acknowledged[name] = catalogue.upsert([drama(name)]).sequence

                with ThreadPoolExecutor(1) as pool:
                    writing = pool.submit(write)
                    goal = len(acknowledged) + 20
                    while len(acknowledged) < goal and not writing.done():
                        catalogue.describe()
                    process.send_signal(signal.SIGKILL)
                    with pytest.raises(ServingError):
                        writing.result(timeout=60)
        finally:
            process.kill()
            process.communicate(timeout=30)
    changes = read_changes(tmp_path / "changes")
    assert acknowledged.keys() <= changes.last.keys()
    assert {id_: batch.sequence for id_, (batch, _) in changes.last.items()}.items() >= acknowledged.items()
    process = start(*arguments)
    try:
        with Client(address_of(process)) as client:
            for name in acknowledged:
                assert ids(client.similar_items(name, k=1))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_in_several_processes_a_search_sees_what_another_process_wrote(few, tmp_path):
    process = start("--bundles", str(few), "--catalogue", str(tmp_path / "changes"), "--processes", "2")
    try:
        address = address_of(process)
        for number in range(12):
            # A connection of its own each, which the kernel gives to either process.
            with CatalogueClient(address, deadline_ms=60_000, options=OWN_CONNECTION) as catalogue:
                assert catalogue.upsert([drama(f"n{number}")]).sequence == number + 1
            with Client(address, deadline_ms=60_000, options=OWN_CONNECTION) as client:
                assert ids(client.similar_items(f"n{number}", k=1))
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_a_published_bundle_takes_over(settings, tmp_path):
    root = tmp_path / "root"
    dataset = Dataset(small_dataset(tmp_path / "dataset"))
    towers, options = small_towers(dataset), PublishOptions(num_queries=8, repeats=1)
    write_bundle(root, towers=towers, dataset=dataset, options=options)
    with serving(replace(settings, bundles=root)) as (server, client, catalogue):
        catalogue.upsert([drama("new"), drama("i5")])
        catalogue.delete(["i6"])
        before = ids(client.similar_items("i7", k=1000, width=16))
        write_bundle(root, towers=towers, dataset=dataset, options=options, changes=read_changes(settings.catalogue))
        catalogue.upsert([drama("later")])
        assert server.live.reload()
        now = catalogue.describe()
        assert (now.bundle_sequence, now.sequence, now.num_delta_items, now.num_tombstones) == (2, 3, 1, 0)
        assert now.num_items == now.num_bundle_items + 1 == 81
        assert set(ids(client.similar_items("i7", k=1000, width=16))) == {*before, "later"}
