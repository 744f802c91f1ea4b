"""Every norm with every head, all the way: trained, exported, published, and answering as plain NumPy says."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.evaluate.protocol import evaluate_vectors
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.index.space import LadderSpace
from recsys.model.best import load_towers
from recsys.train.trainer import TrainOptions, train
from serving.client import Client
from serving.server import Server
from serving.settings import ServerSettings
from serving.v1 import candidates_pb2 as pb

WIDTHS = (4, 8, 16)
NORMS = {"prefix": pb.NORM_PREFIX, "full": pb.NORM_FULL}
LOSS = LossConfig(num_uniform_negatives=16, temperature=(0.1,), distillation=0.5, energy_weight=1.0)
CONFIG = TrainConfig(loss=LOSS, batch_size=64, epochs=2, device="cpu")


@pytest.fixture(scope="module", params=product(NORMS, ("tied", "per_width")), ids="-".join)
def run(request, simulated, tmp_path_factory):
    """A trained run, its norm and its head."""
    norm, head = request.param
    model = ModelConfig(widths=WIDTHS, norm=norm, head=head, embedding_dim=8, hidden=(16,), history_windows=(1, 5))
    folder = tmp_path_factory.mktemp(f"{norm}-{head}") / "run"
    train(TrainOptions(dataset=simulated, out=folder, config=replace(CONFIG, model=model)))
    return folder, norm, head


@pytest.fixture(scope="module")
def bundle(run, simulated):
    folder, _, _ = run
    towers, _ = load_towers(folder)
    scans = LadderSpace(engines=("exact",), levels=(0,), reranks=(0,))  # one rung of each width, all of which stay
    options = PublishOptions(num_queries=16, repeats=1, space=scans)
    return Bundle.open(write_bundle(folder / "bundles", towers=towers, dataset=Dataset(simulated), options=options))


def unit(vector_XD):
    return vector_XD / np.linalg.norm(vector_XD, axis=-1, keepdims=True)


def scores(user_QU, item_ND, width, *, norm, head):
    """What the norm and the head say of a width, written out."""
    item_Nw = unit(item_ND)[:, :width] if norm == "full" else unit(item_ND[:, :width])
    if head == "per_width":
        before = sum(WIDTHS[: WIDTHS.index(width)])
        return unit(user_QU[:, before : before + width]) @ item_Nw.T
    return (unit(user_QU)[:, :width] if norm == "full" else unit(user_QU[:, :width])) @ item_Nw.T


def test_training_learns_at_every_width(run):
    newest = max((run[0] / "checkpoints").glob("step-*"))
    first, last = json.loads((newest / "progress.json").read_text())["history"]
    for width in WIDTHS:
        assert last["loss"][str(width)] < first["loss"][str(width)]
    assert all(0 < last["energy"][side]["4"] < 1 for side in ("user", "item"))


def test_evaluation_ranks_by_the_scores_of_each_width(run, simulated):
    folder, norm, head = run
    (towers, _), dataset = load_towers(folder), Dataset(simulated)
    queries = replace(dataset.queries("test"), mask_seen=False)
    user_QU = query_vectors(towers, queries, dataset.feature_lists("user"))
    item_ND = item_vectors(towers, dataset.feature_lists("item"))
    assert user_QU.shape[1] == (16 if head == "tied" else 4 + 8 + 16)
    found = evaluate_vectors(queries, user_QU, item_ND, towers.widths, ks=(10,))
    for width in WIDTHS:
        best_QK = np.argsort(-scores(user_QU, item_ND, width, norm=norm, head=head), axis=1)[:, :10]
        hits_Q = (best_QK == queries.target.values[:, None]).any(axis=1)
        assert found[width].mean("recall@10") == pytest.approx(hits_Q.mean(), abs=1e-9)


def test_a_server_answers_with_the_scores_of_each_width(run, bundle):
    folder, norm, head = run
    assert (bundle.manifest["norm"], bundle.manifest["head"]) == (norm, head)
    history, features, _ = bundle.users.batch(np.array([3]))
    user_QU = bundle.towers.encode_users(history, features)
    with Server(ServerSettings(bundles=folder / "bundles", port=0)) as server, Client(server.address) as client:
        assert client.describe().norm == NORMS[norm]
        for width in WIDTHS:
            (rung,) = [one for one in bundle.ladder.rungs if one.name == f"exact{width}"]
            score_N = scores(user_QU, bundle.item_vectors, width, norm=norm, head=head)[0]
            found = bundle.searcher.search(user_QU, k=60, rung=rung)
            np.testing.assert_allclose(found.scores_BK[0], np.sort(score_N)[::-1], atol=1e-6)
            np.testing.assert_allclose(score_N[found.rows_BK[0]], found.scores_BK[0], atol=1e-6)
            answer = client.recommend(user_id="u3", k=5, width=width, exclude_seen=False)
            at_full = answer.report.rerank_depth > 0
            served_N = scores(user_QU, bundle.item_vectors, 16 if at_full else width, norm=norm, head=head)[0]
            rows = bundle.items.rows([item.item_id for item in answer.items])
            np.testing.assert_allclose([item.score for item in answer.items], served_N[rows], atol=1e-6)
        similar = client.similar_items("i5", k=5, width=16)
        cosine_N = unit(bundle.item_vectors) @ unit(bundle.item_vectors[5])
        cosine_N[5] = -1
        assert [item.item_id for item in similar.items] == bundle.items.ids(np.argsort(-cosine_N)[:5])
