"""The simulated world has the structure it promises."""

from pathlib import Path

import polars as pl
import pytest

from recsys.data.synthetic import SimulatedWorld
from recsys.errors import ConfigError


def test_users_prefer_their_group_and_popularity_falls_off() -> None:
    world = SimulatedWorld(num_users=50, num_items=40, num_events=5000, loyalty=0.8, seed=3)
    log = world.events().join(world.items(), on="item_id").join(world.users(), on="user_id")
    assert len(log) == 5000
    assert log["user_id"].n_unique() == 50
    own = (log["groups"].list.first() == log["segment"]).mean()
    assert 0.8 <= own <= 0.9
    first, last = (log.filter(pl.col("item_id").is_in(ids)).height for ids in (("i0000000",), ("i0000036",)))
    assert first > 3 * last


def test_a_seed_fixes_it() -> None:
    assert SimulatedWorld(seed=1).events().equals(SimulatedWorld(seed=1).events())
    assert not SimulatedWorld(seed=1).events().equals(SimulatedWorld(seed=2).events())


def test_files(tmp_path: Path) -> None:
    world = SimulatedWorld()
    folder = world.write(tmp_path / "world")
    assert pl.read_parquet(folder / "items.parquet").equals(world.items())
    assert sorted(one.name for one in folder.iterdir()) == ["interactions.parquet", "items.parquet", "users.parquet"]


@pytest.mark.parametrize("settings", [{"num_groups": 0}, {"num_events": 10}, {"loyalty": 1.5}])
def test_impossible_worlds(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SimulatedWorld(**settings)
