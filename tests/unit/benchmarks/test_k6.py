"""Where k6 and servers run, and what is read from k6's files."""

import base64
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
from picked import picked

from benchmarks._k6 import _replies, pinned, split_cores
from serving.client import unpack
from serving.packed import pack


def test_each_call_gets_its_latency_its_status_and_its_items(tmp_path):
    items = pack(picked(["i7", "i12"]), np.array([0.5, 0.25], dtype=np.float32))
    encoded = {
        name: base64.b64encode(value).decode()
        for name, value in (("scores", items.scores), ("idOffsets", items.id_offsets), ("ids", items.ids))
    }
    said = [{"place": 2, "status": 0, "items": encoded}, {"place": 0, "status": 8}, {"place": 1, "status": 0}]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in said))
    samples = [
        "metric_name,timestamp,metric_value,scenario,extra_tags,metadata",
        "data_sent,1795987890,33.000000,connect,,",
        "grpc_req_duration,1795987890,4.500000,load,place=2,",
        "grpc_req_duration,1795987890,1.500000,load,place=0,",
        "iterations,1795987890,3.000000,load,,",
        "dropped_iterations,1795987890,2.000000,load,,",
    ]
    (tmp_path / "samples").write_text("\n".join(samples) + "\n")
    replies, num_unsent = _replies(tmp_path / "samples", tmp_path / "log")
    assert num_unsent == 2
    assert [(reply.place, reply.latency_ms, reply.code) for reply in replies] == [
        (2, 4.5, "OK"),
        (0, 1.5, "RESOURCE_EXHAUSTED"),
        (1, math.inf, "OK"),
    ]
    item_ids, score_K = unpack(replies[0].items)
    assert item_ids.tolist() == ["i7", "i12"]
    assert score_K.tolist() == [0.5, 0.25]


@contextmanager
def asked_where_it_runs():
    ask = "import os; print(sorted(os.sched_getaffinity(0)))"
    yield json.loads(subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout)


def test_processes_are_pinned_and_who_starts_them_is_not():
    servers, tool = before = split_cores()
    with pinned(servers, asked_where_it_runs()) as first, pinned(tool, asked_where_it_runs()) as second:
        assert (set(first), set(second)) == before
        assert split_cores() == before
        assert os.sched_getaffinity(0) == servers | tool
