import pytest

from recsys.errors import ConfigError
from recsys.index.specs import IndexSpec, RungSpec, brief


@pytest.mark.parametrize(
    ("rung", "name"),
    [
        (RungSpec(engine="exact", width=64), "exact64"),
        (RungSpec(engine="exact", width=64, levels=4), "exact64-pano4"),
        (RungSpec(engine="ivf", width=64, nprobe=8, rerank=400), "ivf64-p8-r400"),
        (
            RungSpec(engine="ivf", width=64, routing=16, code="rabitq", nprobe=32, rerank=400),
            "ivf64r16-rabitq-p32-r400",
        ),
        (
            RungSpec(
                engine="ivf", width=16, cells=256, nprobe=3, funnel=((64, 90), (128, 30)), rerank=20, store="fp16"
            ),
            "ivf16c256-p3-f64x90-f128x30-r20-fp16",
        ),
        (RungSpec(engine="hnsw", width=32, ef=100), "hnsw32-e100"),
        (RungSpec(engine="certified", width=64, routing=16), "certified64r16"),
    ],
)
def test_names_say_everything(rung, name):
    assert rung.name == name
    assert rung.name.startswith(rung.index.name)
    assert RungSpec(**brief(rung)) == rung
    assert IndexSpec(**brief(rung.index)) == rung.index


def test_little_is_written_of_a_plain_rung():
    assert brief(RungSpec(engine="ivf", width=64, nprobe=8)) == {"engine": "ivf", "width": 64, "nprobe": 8}


def test_a_funnel_read_from_json_is_the_same():
    rung = RungSpec(engine="exact", width=16, funnel=((64, 900),), rerank=200)
    assert RungSpec(engine="exact", width=16, funnel=[[64, 900]], rerank=200) == rung
    assert hash(rung) == hash(RungSpec(engine="exact", width=16, funnel=[[64, 900]], rerank=200))


def test_the_scan_finds_what_the_first_stage_takes():
    assert RungSpec(engine="exact", width=16).depth == 0
    assert RungSpec(engine="exact", width=16, rerank=200).depth == 200
    assert RungSpec(engine="exact", width=16, funnel=((64, 900),), rerank=200).depth == 900


def test_a_lossy_scan_may_be_scored_again_at_its_own_width():
    RungSpec(engine="ivf", width=16, code="sq8", nprobe=1, funnel=((16, 90),))
    with pytest.raises(ConfigError, match="strictly increasing"):
        RungSpec(engine="ivf", width=16, nprobe=1, funnel=((16, 90),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine": "tree", "width": 8}, "engine: got 'tree'"),
        ({"engine": "exact", "width": 0}, "width 0"),
        ({"engine": "exact", "width": 8, "routing": 4}, "routing 4, cells 0 for exact"),
        ({"engine": "hnsw", "width": 8, "cells": 4, "ef": 9}, "routing 0, cells 4 for hnsw"),
        ({"engine": "certified", "width": 8, "cells": 4}, "cells 4 for certified, expected .* cells for ivf only"),
        ({"engine": "ivf", "width": 8, "cells": -1, "nprobe": 1}, "cells -1"),
        ({"engine": "exact", "width": 8, "code": "sq8"}, "code: got sq8 for exact"),
        ({"engine": "ivf", "width": 8, "code": "sq4", "nprobe": 1}, "code: got 'sq4'"),
        (
            {"engine": "ivf", "width": 6, "code": "pq4", "nprobe": 1},
            "pq4 at width 6, expected a multiple of 4",
        ),
        ({"engine": "exact", "width": 8, "levels": 3}, "levels: got 3 for exact8"),
        ({"engine": "ivf", "width": 8, "levels": 2, "code": "fp16", "nprobe": 1}, "levels: got 2"),
        ({"engine": "ivf", "width": 8}, "nprobe: got 0 for ivf, expected at least 1"),
        ({"engine": "exact", "width": 8, "nprobe": 1}, "nprobe: got 1 for exact, expected 0"),
        ({"engine": "hnsw", "width": 8}, "ef: got 0 for hnsw"),
        ({"engine": "ivf", "width": 8, "nprobe": 1, "ef": -1}, "ef: got -1 for ivf"),
        ({"engine": "exact", "width": 8, "rerank": -1}, "rerank: got -1"),
        ({"engine": "certified", "width": 8, "rerank": 5}, "got them for certified"),
        ({"engine": "exact", "width": 8, "store": "fp16"}, "store: got fp16"),
        ({"engine": "exact", "width": 8, "store": "sq4", "rerank": 1}, "store: got 'sq4'"),
        ({"engine": "exact", "width": 8, "funnel": ((4, 100),)}, "strictly increasing"),
        ({"engine": "exact", "width": 8, "funnel": ((16, 100), (16, 50))}, "strictly increasing"),
        ({"engine": "exact", "width": 8, "funnel": ((16, 100),), "rerank": 200}, "never rise"),
        ({"engine": "exact", "width": 8, "funnel": ((16, 0),)}, "expected positive ones"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        RungSpec(**fields)
