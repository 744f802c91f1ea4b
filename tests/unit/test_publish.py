"""Publishing a run with what became of its catalogue since, on real MovieLens-100K."""

import pytest

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions
from recsys.changes import Batch, ChangedItem, ChangeLog
from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareOptions, prepare
from recsys.errors import ArtifactError
from recsys.index.space import LadderSpace
from recsys.model.best import save_towers
from recsys.publish import PublishRunOptions, publish_run
from recsys.testing import small_towers

SCANS = LadderSpace(engines=("exact",), levels=(0,), reranks=(0,), funnels=(), stores=("float32",))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A run with towers of random weights: what is published of them is as good as anything else."""
    work = tmp_path_factory.mktemp("work")
    dataset = Dataset(prepare(PrepareOptions(recipe="ml-100k", out=work / "dataset")))
    (work / "run").mkdir()
    fingerprint = {"dataset_fingerprint": dataset.manifest["fingerprint"]}
    save_towers(work / "run", small_towers(dataset), fingerprint)
    return {
        "run": work / "run",
        "dataset": work / "dataset",
        "publish": PublishOptions(num_queries=40, repeats=1, space=SCANS),
    }


def test_changes_are_published(options, tmp_path):
    log = ChangeLog(tmp_path / "changes")
    film = ChangedItem(id="9000", title="A Film Nobody Saw (2031)", features={"genres": ["Drama", "Film-Noir"]})
    other = ChangedItem(id="50", title="Star Wars (1977), again", features={"genres": ["Western"]})
    with log.writing():
        log.append(Batch(sequence=1, model_id="m", upserts=[film, other], deletes=["1"]).to_line(), end=log.start)
    bundle = Bundle.open(
        publish_run(PublishRunOptions(**options, out=tmp_path / "bundles", catalogue=tmp_path / "changes"))
    )
    assert bundle.manifest["catalogue"] == {"log_id": log.id, "sequence": 1}
    assert (len(bundle.items), len(bundle.history_items)) == (1682, 1682)
    assert "1" not in bundle.items
    assert "1" in bundle.history_items
    for item in (film, other):
        row = bundle.items.row(item.id)
        assert bundle.titles[row] == item.title
        assert bundle.item_frame["genres"][row].to_list() == item.features["genres"]
        assert bundle.item_frame["release_date"][row] is None
    assert bundle.items.row("9000") in bundle.item_values["genres"].items(["Film-Noir"]).rows


def test_a_folder_without_a_log_is_refused_before_anything_is_written(options, tmp_path):
    with pytest.raises(ArtifactError, match="got no log of changes there"):
        publish_run(PublishRunOptions(**options, out=tmp_path / "bundles", catalogue=tmp_path))
    assert not (tmp_path / "bundles").exists()
