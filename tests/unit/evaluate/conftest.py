"""A prepared dataset small enough to work out by hand."""

import numpy as np
import polars as pl
import pytest

from recsys import artifact
from recsys.data.dataset import Dataset
from recsys.data.event_files import write_events
from recsys.data.schema import SPLITS

NUM_USERS, NUM_ITEMS = 4, 6
DAY = 86_400

TRAIN = [  # (user, item, day)
    (0, 0, 1), (0, 1, 2), (0, 1, 3),
    (1, 0, 1), (1, 1, 8), (1, 2, 9),
    (2, 1, 4), (2, 3, 10),
    (3, 4, 10),
]  # fmt: skip
VALIDATION = [(0, 2, 11), (1, 3, 11)]
TEST = [(0, 3, 12), (0, 3, 13), (2, 0, 12), (2, 5, 13), (3, 1, 12)]


@pytest.fixture
def make_dataset(tmp_path):
    """Return a function that writes the events above as a dataset folder and opens it."""

    def make(*, time_unit="s", mask_seen=True, events=None):
        events = events or {"train": TRAIN, "validation": VALIDATION, "test": TEST}
        ticks = {"s": 1, "ms": 1_000, "us": 1_000_000}.get(time_unit)
        folder = tmp_path / f"{time_unit}-{mask_seen}"
        with artifact.staged(folder) as staging:
            for split in SPLITS:
                user, item, day = np.array(events.get(split, []), dtype=np.int64).reshape(-1, 3).T
                columns = {"user": user.astype(np.uint32), "item": item.astype(np.uint32)}
                columns |= {} if time_unit is None else {"time": day * (DAY * ticks if ticks else 1)}
                write_events(staging / f"{split}.arrow", [pl.DataFrame(columns)])
            pl.DataFrame({"id": [f"u{row}" for row in range(NUM_USERS)]}).write_parquet(staging / "users.parquet")
            pl.DataFrame({"id": [f"i{row}" for row in range(NUM_ITEMS)]}).write_parquet(staging / "items.parquet")
            content = {
                "name": "by-hand", "features": [], "ordered": time_unit is not None,
                "time_unit": time_unit, "mask_seen": mask_seen,
            }  # fmt: skip
            artifact.seal(staging, "dataset", content)
        return Dataset(folder)

    return make
