"""A feature of an open vocabulary from the log to answers: trained, filtered by, and read for items that are new."""

from __future__ import annotations

import numpy as np
import pytest

import recsys
from recsys.data.schema import hash_word
from recsys.data.synthetic import SimulatedWorld
from serving.catalogue_client import CatalogueClient, item
from serving.client import Client, items_where
from serving.server import Server
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb

NUM_BUCKETS = 64
MODEL = {"widths": (4, 8), "embedding_dim": 8, "hidden": (), "item_id_dropout": 0.2}
SPACE = {"engines": ("exact",), "levels": (0,), "reranks": (0,), "funnels": (), "stores": ("float32",)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hashed")
    log = SimulatedWorld(num_users=80, num_items=60, num_events=1500).write(folder / "log")
    dataset = recsys.prepare(
        interactions=str(log / "interactions.parquet"), time_column="timestamp", items=log / "items.parquet",
        item_features=(f"groups:hashed:{NUM_BUCKETS}",), protocol="leave-last-out", out=folder / "dataset",
    )  # fmt: skip
    run = recsys.train(dataset=dataset, out=folder / "run", model=MODEL, batch_size=64, epochs=1, device="cpu")
    recsys.publish(run=run, dataset=dataset, out=folder / "bundles", space=SPACE, repeats=1, num_queries=40)
    return folder


def test_from_the_log_to_answers(folders):
    settings = ServerSettings(bundles=folders / "bundles", port=0, workers=1, catalogue=folders / "catalogue")
    with Server(settings) as server, Client(server.address) as client, CatalogueClient(server.address) as catalogue:
        (feature,) = client.describe().item_features
        assert (feature.name, feature.kind) == ("groups", pb.FEATURE_KIND_HASHED)
        frame = server.live.engine.bundle.item_frame
        group = frame["groups"][0][0]
        assert group in feature.values
        of_group = set(frame.filter(frame["groups"].list.contains(group))["id"])
        answer = client.recommend(user_id="u0000001", k=60, where=items_where(include={"groups": group}))
        assert {one.item_id for one in answer.items} <= of_group
        assert answer.items
        # Values that nobody has had yet have rows of their own, or share those of others.
        taken = hash_word(group, NUM_BUCKETS)
        strange = next(f"new {n}" for n in range(999) if hash_word(f"new {n}", NUM_BUCKETS) != taken)
        alike = next(f"new {n}" for n in range(999) if hash_word(f"new {n}", NUM_BUCKETS) == taken)
        placed = {"known": group, "strange": strange, "alike": alike}
        catalogue.upsert([item(name, features={"groups": value}) for name, value in placed.items()])
        scores = {name: [one.score for one in client.similar_items(name, k=50).items] for name in placed}
        np.testing.assert_allclose(scores["alike"], scores["known"], atol=1e-6)
        assert np.abs(np.subtract(scores["strange"], scores["known"])).max() > 1e-3
        answer = client.recommend(user_id="u0000001", k=60, where=items_where(include={"groups": strange}))
        assert [one.item_id for one in answer.items] == ["strange"]
