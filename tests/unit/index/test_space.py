"""The space of rungs: what is in it at any size, and what makes no sense left out."""

import pytest

from recsys.errors import ConfigError, WidthError
from recsys.index.cells import MIN_ITEMS_FOR_IVF, num_cells
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.widths import WidthLadder

WIDTHS = WidthLadder((16, 32, 64))


def specs_of(num_items, *, trained=WIDTHS, **space):
    return LadderSpace(**space).specs(trained, num_items=num_items, k=100, seed=1)


@pytest.mark.parametrize("num_items", [1, 3, 25, 150, 623, 624, 3706, 100_000, 10_000_000])
@pytest.mark.parametrize("widths", [(16, 32, 64, 128), (8, 16, 32), (16, 64), (64,)])
def test_rungs_are_distinct_and_none_is_silly(widths, num_items):
    widths = WidthLadder(widths)
    specs = specs_of(num_items, trained=widths)
    assert len(set(specs)) == len(specs) <= LadderSpace().max_trials
    assert specs[0] == RungSpec(engine="exact", width=widths.full)
    assert {spec.width for spec in specs} == set(widths)
    for spec in specs:
        assert spec.depth < num_items
        assert not (spec.rerank and spec.width == widths.full and spec.code == "float32")
        assert spec.engine != "ivf" or 1 <= spec.nprobe <= num_cells(num_items)
    assert any(spec.engine == "ivf" for spec in specs) == (num_items >= MIN_ITEMS_FOR_IVF)


def test_a_draw_is_seeded_and_keeps_what_is_exact():
    some = specs_of(100_000, max_trials=20)
    assert len(some) == 20
    assert some == specs_of(100_000, max_trials=20)
    assert [spec.name for spec in some[:2]] == ["exact64", "certified64r16"]
    assert set(some) <= set(specs_of(100_000, max_trials=10_000))


def test_every_part_of_the_space_is_used():
    specs = specs_of(
        50_000,
        engines=("ivf", "hnsw"),
        widths=(32,),
        routings=(0, 16),
        codes=("rabitq",),
        probe_shares=(0.1,),
        efs=(200, 400),
        reranks=(2,),
        funnels=(),
        stores=("sq8",),
    )
    assert {spec.name for spec in specs[1:]} == {
        "ivf32-rabitq-p26-r200-sq8",
        "ivf32r16-rabitq-p26-r200-sq8",
        "hnsw32-e200-r200-sq8",
        "hnsw32-e400-r200-sq8",
    }


def test_a_funnel_goes_through_the_next_wider_width():
    specs = specs_of(50_000, max_trials=10_000)
    funnels = {(spec.width, spec.funnel, spec.rerank) for spec in specs if spec.funnel}
    assert funnels == {(16, ((32, 800),), 200)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ()}, "engines: got"),
        ({"codes": ("float8",)}, "codes: got"),
        ({"probe_shares": (0.0,)}, "probe_shares: got"),
        ({"reranks": (-1,)}, "reranks: got"),
        ({"max_trials": 0}, "max_trials: got 0"),
    ],
)
def test_a_space_of_nothing_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        LadderSpace(**change)


def test_widths_that_were_not_trained_are_refused():
    with pytest.raises(WidthError, match="got 24"):
        specs_of(1000, routings=(24,))
