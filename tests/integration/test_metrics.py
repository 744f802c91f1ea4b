"""What a server tells Prometheus, read as Prometheus reads it, and the dashboard that asks for it."""

from __future__ import annotations

import json
import queue
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import grpc
import pytest
from processes import eventually
from prometheus_client.parser import text_string_to_metric_families

from recsys.errors import ConfigError, RequestError
from serving.client import Client, ServingError, user
from serving.metrics import Metrics, exported
from serving.processes import _share_of
from serving.server import Server, answer_calls
from serving.settings import ServerSettings, ShadowSettings
from serving.v1 import candidates_pb2 as pb

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "candidates.json"


@contextmanager
def serving(bundles, **settings):
    """Start a server with its page; give a client and what reads the page."""
    with (
        Server(ServerSettings(bundles=bundles, port=0, workers=2, **settings)) as server,
        exported(server.metrics, host="127.0.0.1", port=0) as port,
        Client(server.address) as client,
    ):
        yield client, partial(settled_page, port)


def settled_page(port: int) -> dict[tuple[str, frozenset], float]:
    """Read the page once every answered call has been counted as an answer, which happens after it was sent."""

    def total(page, name, **labels):
        return sum(got for (of, its), got in page.items() if of == name and labels.items() <= dict(its).items())

    pages = [read_page(port)]
    assert eventually(
        lambda: (
            total(pages[-1], "recsys_calls_total", code="OK") == total(pages[-1], "recsys_answer_seconds_count")
            or pages.append(read_page(port))
        )
    )
    return pages[-1]


def read_page(port: int) -> dict[tuple[str, frozenset], float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def value(page, name, **labels):
    return page.get((name, frozenset(labels.items())), 0.0)


def test_answers_are_counted_by_rung_width_and_stage(bundles):
    with serving(bundles) as (client, read):
        report = client.recommend(user_id="u3", k=5).report
        client.recommend(user_id="u4", k=5)
        # A call has ended for its client a moment before its thread is free.
        assert eventually(lambda: value(read(), "recsys_calls_in_progress") == 0)
        page = read()
    assert value(page, "recsys_calls_total", method="Recommend", code="OK") == 2
    assert value(page, "recsys_answers_total", rung=report.rung, width=str(report.width)) == 2
    for stage in ("queue", "encode", "scan", "rerank"):
        assert value(page, "recsys_stage_seconds_count", stage=stage, rung=report.rung) == 2
    scan_s = value(page, "recsys_stage_seconds_sum", stage="scan", rung=report.rung)
    assert report.timings.scan_ms / 1e3 <= scan_s + 1e-9
    total_s = value(page, "recsys_answer_seconds_sum", method="Recommend")
    assert report.timings.total_ms / 1e3 < total_s
    assert value(page, "recsys_bundle_info", version=report.bundle_version) == 1


def test_every_method_is_counted(bundles):
    with serving(bundles) as (client, read):
        client.recommend_batch([user("u1"), user("u2")], k=3)
        item_id = client.recommend(user_id="u1", k=1).items[0].item_id
        client.similar_items(item_id, k=3)
        page = read()
    for method in ("Recommend", "BatchRecommend", "SimilarItems"):
        assert value(page, "recsys_answer_seconds_count", method=method) == 1


def test_refusals_are_counted_and_are_no_answers(bundles):
    with serving(bundles) as (client, read):
        with pytest.raises(RequestError):
            client.recommend(user_id="u3", k=100_000)
        page = read()
    assert value(page, "recsys_calls_total", method="Recommend", code="INVALID_ARGUMENT") == 1
    assert not any(name == "recsys_answers_total" for name, _ in page)


def test_answers_in_time_and_late_ones_are_told_apart(bundles):
    with serving(bundles, deadline_margin_ms=0) as (client, read):
        client.recommend(user_id="u3", k=5)  # without any limit: neither
        client.recommend(user_id="u3", k=5, budget_ms=60_000)
        client.recommend(user_id="u3", k=5, deadline_ms=60_000)
        late = client.recommend(user_id="u3", k=5, budget_ms=1e-6)
        page = read()
    assert value(page, "recsys_timed_answers_total", in_time="true") == 2
    assert value(page, "recsys_timed_answers_total", in_time="false") == 1
    assert late.report.degraded_reasons
    assert value(page, "recsys_degraded_total", reason="time_too_short") == 1


def test_an_answer_whose_client_has_left_is_an_answer_too(bundles):
    with (
        Server(ServerSettings(bundles=bundles, port=0, workers=1)) as server,
        exported(server.metrics, host="127.0.0.1", port=0) as port,
        Client(server.address) as client,
    ):
        engine, left, learned = server.live.engine, threading.Event(), []
        recommend, searched, finished = engine.recommend, engine.latency.searched, engine.latency.finished

        def once_it_has(query, *, call):
            assert left.wait(30)
            time.sleep(1)  # for the server to be told of it too
            return recommend(query, call=call)

        def noting(stage, learn):
            return lambda rung, *, k, ms: (learn(rung, k=k, ms=ms), learned.append(stage))

        engine.recommend = once_it_has
        engine.latency.searched = noting("searched", searched)
        engine.latency.finished = noting("finished", finished)
        with pytest.raises(ServingError):
            client.recommend(user_id="u1", k=5, deadline_ms=300)
        left.set()
        assert eventually(lambda: value(read_page(port), "recsys_answer_seconds_count", method="Recommend") == 1)
    assert learned == ["searched"]  # how long its way would have been nobody knows


def measured(read, num):
    """Read the page once that many sampled answers were measured, which happens after they were given."""
    for _ in range(600):
        page = read()
        if sum(got for (name, _), got in page.items() if name == "recsys_shadow_overlap_count") >= num:
            return page
        time.sleep(0.1)
    raise AssertionError(page)


EVERY = ShadowSettings(share=1, max_per_s=1e6, max_waiting=1000)


def test_sampled_answers_are_searched_again_and_what_they_claimed_is_corrected(bundles):
    users = [f"u{row}" for row in range(40)]
    with serving(bundles, shadow=EVERY) as (client, read):
        first = client.recommend(user_id="u1", k=5, width=4).report
        for name in users[1:]:
            client.recommend(user_id=name, k=5, width=4)
        page = measured(read, len(users))
        now = client.recommend(user_id="u1", k=5, width=4).report.expected_overlap
        full = client.recommend(user_id="u1", k=5, width=16).report
        exact = measured(read, len(users) + 2)
    of_rung = {"rung": first.rung}
    assert value(page, "recsys_shadow_overlap_count", **of_rung) == len(users)
    got = value(page, "recsys_shadow_overlap_sum", **of_rung) / len(users)
    claimed = value(page, "recsys_shadow_expected_overlap_sum", **of_rung) / len(users)
    assert value(page, "recsys_shadow_error", **of_rung) == pytest.approx(got - claimed)
    corrections = [got for (name, labels), got in page.items() if name == "recsys_overlap_correction"]
    assert corrections == [pytest.approx(now - first.expected_overlap)]
    assert now - first.expected_overlap == pytest.approx((got - first.expected_overlap) * 40 / 240)
    if full.expected_overlap == 1:
        assert value(exact, "recsys_shadow_overlap_sum", rung=full.rung) == 1


def test_a_server_that_samples_nothing_measures_nothing(bundles):
    with serving(bundles, shadow=ShadowSettings(share=0)) as (client, read):
        client.recommend(user_id="u3", k=5)
        page = read()
    assert not any(name.startswith("recsys_shadow_overlap") for name, _ in page)


def test_refusals_of_a_busy_server_are_counted_by_reason_and_priority(bundles):
    with serving(bundles, max_waiting=0) as (client, read):
        before = read()
        with ThreadPoolExecutor(16) as pool:
            ask = partial(client.recommend, k=1000, width=16, include_titles=True, priority=pb.PRIORITY_LOW)
            calls = [pool.submit(ask, user_id=f"u{n % 60}") for n in range(400)]
        codes = [getattr(call.exception(), "code", grpc.StatusCode.OK) for call in calls]
        page = read()
    num_refused = codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert num_refused
    assert num_refused + codes.count(grpc.StatusCode.OK) == 400
    by_priority = [value(page, "recsys_refused_total", reason="limit", priority=name) for name in ("low", "unread")]
    assert sum(by_priority) == num_refused
    assert value(page, "recsys_calls_total", method="Recommend", code="RESOURCE_EXHAUSTED") == num_refused
    assert value(before, "recsys_concurrency_limit") == 2
    assert value(page, "recsys_calls_waiting") == 0
    assert 0 <= value(page, "recsys_dimmer_level") <= 1


def refused_or_not(client, row):
    with suppress(ServingError):
        client.recommend(user_id=f"u{row}", k=1000, width=16)


def test_the_dashboard_asks_for_what_there_is(bundles):
    one_at_a_time = ShadowSettings(share=1, max_per_s=0.001)
    with serving(bundles, shadow=one_at_a_time, max_waiting=0) as (client, read):
        for _ in range(2):
            client.recommend(user_id="u3", k=5, budget_ms=1e-6)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(partial(refused_or_not, client), range(120)))
        known = {name: {label for label, _ in labels} for name, labels in measured(read, 1)}
    asked = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    for expression in asked:
        names = set(re.findall(r"recsys_\w+", expression))
        assert names
        assert names <= known.keys()
        labels = {word for by in re.findall(r"by \(([\w, ]+)\)", expression) for word in by.split(", ")}
        labels |= set(re.findall(r"\{(\w+)=", expression))
        assert labels <= set.union(*(known[name] for name in names)) | {"instance"}


def test_a_taken_port_is_refused_by_name():
    with exported(Metrics(), host="127.0.0.1", port=0) as port:
        second = exported(Metrics(), host="127.0.0.1", port=port)
        with pytest.raises(ConfigError, match=f"metrics_port: got 127.0.0.1:{port}"):
            second.__enter__()


def test_the_program_serves_its_page_where_it_is_told_to(bundles, tmp_path):
    with exported(Metrics(), host="127.0.0.1", port=0) as free:
        pass
    received, ports = queue.SimpleQueue(), queue.SimpleQueue()
    settings = ServerSettings(bundles=bundles, port=0, metrics_port=free)
    running = threading.Thread(target=answer_calls, args=(settings, received, ports.put))
    running.start()
    try:
        with Client(f"127.0.0.1:{ports.get(timeout=60)}") as client:
            client.recommend(user_id="u3", k=5)
        assert value(read_page(free), "recsys_calls_total", method="Recommend", code="OK") == 1
    finally:
        received.put(signal.SIGTERM)
        running.join(timeout=60)
    with pytest.raises(URLError):
        read_page(free)


def test_processes_have_pages_of_their_own(tmp_path):
    settings = ServerSettings(bundles=tmp_path, metrics_port=9000, processes=3)
    assert [_share_of(settings, 1, place).metrics_port for place in range(3)] == [9000, 9001, 9002]
    for metrics_port in (None, 0):
        settings = ServerSettings(bundles=tmp_path, metrics_port=metrics_port, processes=2)
        assert {_share_of(settings, 1, place).metrics_port for place in range(2)} == {metrics_port}
    with pytest.raises(ConfigError, match="metrics_port: got 65535, expected 0 to 65533"):
        ServerSettings(bundles=tmp_path, metrics_port=65535, processes=3)


def test_late_calls_are_not_worked_on_and_counted_where_the_server_refuses_them(bundles):
    failed = []
    with serving(bundles) as (client, read):
        for _ in range(20):
            with pytest.raises(ServingError) as caught:
                client.recommend(user_id="u3", k=5, deadline_ms=1e-3)
            failed.append(caught.value.code)
        page = read()
    # The client gives up by its own clock, but the server's refusal may be there before that.
    refused = failed.count(grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert refused + failed.count(grpc.StatusCode.DEADLINE_EXCEEDED) == len(failed)
    assert value(page, "recsys_calls_total", method="Recommend", code="RESOURCE_EXHAUSTED") >= refused
    assert not any(name == "recsys_answers_total" for name, _ in page)
