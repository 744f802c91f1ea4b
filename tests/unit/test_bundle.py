import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from processes import WITHOUT_TORCHREC

from recsys import artifact
from recsys.bundle import Bundle, current_version, open_current
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.data.event_files import write_events
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.index import product_codes
from recsys.index.calibrate import MIN_RUNGS
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.testing import small_bundle, small_dataset, small_towers

SCANS = LadderSpace(engines=("exact",), levels=(0,), reranks=(0, 2, 4, 8), funnels=(), stores=("float32",))
"""Of this space one rung of each width is kept, so which index files there are does not depend on the clock."""
OPTIONS = PublishOptions(num_queries=8, repeats=1, space=SCANS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(small_dataset(tmp_path_factory.mktemp("data") / "dataset", num_items=700))


@pytest.fixture(scope="module")
def published(dataset, tmp_path_factory):
    """A bundle with exact and IVF indexes; copy it before damaging it."""
    towers = small_towers(dataset)
    return write_bundle(tmp_path_factory.mktemp("root"), towers=towers, dataset=dataset, options=OPTIONS)


@pytest.fixture
def copy(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / published.name))


def files_of(path):
    return sorted(str(one.relative_to(path)) for one in path.rglob("*") if one.is_file())


def reseal(path):
    """Give a changed bundle a manifest whose checksums fit it, with the ids it had: what a careless copy would do."""
    manifest = json.loads((path / artifact.MANIFEST).read_text())
    made = ("fingerprint", "kind", "format", "versions", "files")
    content = {key: value for key, value in manifest.items() if key not in made}
    (path / artifact.MANIFEST).unlink()
    artifact.seal(path, "bundle", content)


def test_a_bundle_holds_what_was_published(published, dataset):
    bundle = Bundle.open(published)
    towers = small_towers(dataset)
    expected = towers.encode_items(np.arange(700), dataset.feature_lists("item"))
    np.testing.assert_array_equal(bundle.item_vectors, expected)
    assert tuple(bundle.widths) == (4, 8, 16)
    assert (bundle.manifest["norm"], bundle.manifest["head"]) == ("prefix", "tied")
    assert bundle.version == published.name
    assert bundle.items.ids(range(3)) == ["i0", "i1", "i2"]
    assert bundle.item_frame.columns == ["id", "title", "genre"]
    assert bundle.titles == dataset.item_frame["title"].to_list()
    assert bundle.mask_seen is True
    assert len(bundle.ladder.rungs) >= MIN_RUNGS
    assert bundle.ladder.measured["num_queries"] == 8
    assert bundle.ladder.measured["query_split"] == "test"
    assert bundle.manifest["dataset"] == {"name": "small-world", "fingerprint": dataset.manifest["fingerprint"]}
    rung = RungSpec(engine="exact", width=16)
    assert bundle.searcher.search(bundle.item_vectors[5:6], k=1, rung=rung).rows_BK[0, 0] == 5


@pytest.mark.parametrize(("setting", "other"), [("norm", "full"), ("head", "per_width")])
def test_towers_of_another_norm_or_head_than_the_bundles_are_refused(copy, setting, other):
    layout = json.loads((copy / "towers.json").read_text())
    known = layout["config"][setting]
    layout["config"][setting] = other
    (copy / "towers.json").write_text(json.dumps(layout))
    # Another head has another projection, which is noticed first.
    message = "size mismatch" if setting == "head" else f"towers.json: norm: got {other}, expected {known}"
    with pytest.raises(ArtifactError, match=message):
        Bundle.open(copy, verify=False)


def test_users_have_all_their_events(published, dataset):
    users = Bundle.open(published).users
    events = dataset.histories("train", "fold_in", "validation", "test")
    assert len(users) == len(dataset.users) == 60
    for row in range(60):
        assert users.history(row).tolist() == events[row].tolist()[-5:]  # the towers' longest window
        assert users.seen(row).tolist() == sorted(set(events[row].tolist()))
    groups = dataset.feature_lists("user")["group"]
    assert users.features(7)["group"][0].tolist() == groups[7].tolist()


def test_the_towers_answer_as_before(published, dataset):
    bundle, towers = Bundle.open(published), small_towers(dataset)
    history, features, _ = bundle.users.batch(np.arange(60))
    np.testing.assert_array_equal(bundle.towers.encode_users(history, features), towers.encode_users(history, features))


def test_titles_fall_back_to_ids(copy):
    frame = pl.read_parquet(copy / "items.parquet")
    titles = pl.when(pl.col("id") == "i1").then(None).otherwise("title").alias("title")
    frame.with_columns(titles).write_parquet(copy / "items.parquet")
    assert Bundle.open(copy, verify=False).titles[:2] == [frame["title"][0], "i1"]
    frame.drop("title").write_parquet(copy / "items.parquet")
    assert Bundle.open(copy, verify=False).titles is None


def test_items_are_known_by_the_values_of_their_features(copy):
    bundle = Bundle.open(copy, verify=False)
    funny = bundle.item_values["genre"].items(["comedy"])
    assert funny.rows.tolist() == [row for row, genres in enumerate(bundle.item_frame["genre"]) if "comedy" in genres]
    assert list(bundle.item_values) == ["genre"]
    bundle.item_frame.drop("genre").write_parquet(copy / "items.parquet")
    with pytest.raises(ArtifactError, match=r"items\.parquet: column genre: got None, expected List\(String\)"):
        Bundle.open(copy, verify=False)


def test_publishing_moves_current(tmp_path):
    first = small_bundle(tmp_path)
    assert current_version(tmp_path) == first.name
    second = small_bundle(tmp_path, seed=2)
    assert open_current(tmp_path).path == second
    assert first.name < second.name
    assert (tmp_path / "PREVIOUS").read_text().strip() == first.name


def test_publishing_without_activating_leaves_current(dataset, tmp_path):
    first = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    quiet = replace(OPTIONS, activate=False)
    second = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=quiet)
    assert current_version(tmp_path) == first.name != second.name
    assert first.name.split("-")[1] == second.name.split("-")[1]  # the same content


def test_the_same_towers_give_the_same_ids(published, dataset, tmp_path):
    again = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    other = write_bundle(tmp_path, towers=small_towers(dataset, seed=2), dataset=dataset, options=OPTIONS)
    manifests = [artifact.read_manifest(path, "bundle") for path in (published, again, other)]
    for name in ("model_id", "index_id"):
        assert manifests[0][name] == manifests[1][name] != manifests[2][name]


def test_progress_tells_stages(dataset, tmp_path):
    told = []
    write_bundle(
        tmp_path,
        towers=small_towers(dataset),
        dataset=dataset,
        options=OPTIONS,
        progress=lambda stage, share: told.append((stage, share)),
    )
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["encode items", "encode users", "build indexes", "measure the ladder", "write"]
    assert ("measure the ladder", 1.0) in told


def test_every_file_is_guarded(published, copy):
    names = files_of(published)
    assert {"manifest.json", "ladder.json", "towers.safetensors", "users.parquet", "index/exact8.faiss"} <= set(names)
    random = np.random.default_rng(1)
    for name in names:
        whole = (copy / name).read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1, int(random.integers(len(whole)))):
            flipped = bytes([whole[place] ^ (1 << int(random.integers(8)))])
            (copy / name).write_bytes(whole[:place] + flipped + whole[place + 1 :])
            with pytest.raises(ArtifactError, match=Path(name).name.replace(".", r"\.")):
                Bundle.open(copy)
        (copy / name).write_bytes(whole)
    Bundle.open(copy)


def test_a_missing_or_extra_file_is_named(copy):
    for name in files_of(copy):
        (copy / name).rename(copy.parent / "aside")
        with pytest.raises(ArtifactError, match=Path(name).name.replace(".", r"\.")):
            Bundle.open(copy)
        (copy.parent / "aside").rename(copy / name)
    (copy / "index" / "extra.faiss").touch()
    with pytest.raises(ArtifactError, match=r"file not in the manifest: index/extra\.faiss"):
        Bundle.open(copy)


@pytest.fixture(scope="module")
def other(dataset, tmp_path_factory):
    """A bundle of another model of the same shape."""
    towers = small_towers(dataset, seed=2)
    return write_bundle(tmp_path_factory.mktemp("other"), towers=towers, dataset=dataset, options=OPTIONS)


@pytest.mark.parametrize(
    "name", ["index/exact4.faiss", "index/norms.safetensors", "item_vectors.safetensors", "towers.safetensors"]
)
def test_parts_of_another_bundle_are_refused(copy, other, name):
    shutil.copy(other / name, copy / name)
    with pytest.raises(ArtifactError, match=rf"{Path(name).name}: SHA-256"):
        Bundle.open(copy)
    reseal(copy)
    with pytest.raises(ArtifactError, match=r"manifest\.json: (model|index)_id: got"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["item_vectors.safetensors"], r"item_vectors\.safetensors: model id"),
        (["user_vectors.safetensors"], r"user_vectors\.safetensors: got \(60, 16\) of model"),
        (["index/exact8.faiss"], r"exact8\.faiss: its vectors are not the item vectors"),
        (["ladder.json"], r"ladder\.json: index id"),
    ],
)
def test_parts_of_another_bundle_are_noticed_even_unverified(copy, other, names, message):
    for name in names:
        shutil.copy(other / name, copy / name)
    with pytest.raises(ArtifactError, match=message):
        Bundle.open(copy, verify=False)


def test_a_bundle_of_another_size_is_refused(copy, tmp_path):
    fewer = Dataset(small_dataset(tmp_path / "fewer", num_items=650))
    smaller = write_bundle(tmp_path / "root", towers=small_towers(fewer), dataset=fewer, options=OPTIONS)
    for name, message in (
        ("towers.json", "not a pair of exported towers"),
        ("items.parquet", "items: got 650, expected 700"),
        ("index/exact4.faiss", "items: got 650, expected 700"),
    ):
        shutil.copy(copy / name, tmp_path / "aside")
        shutil.copy(smaller / name, copy / name)
        with pytest.raises(ArtifactError, match=message):
            Bundle.open(copy, verify=False)
        shutil.copy(tmp_path / "aside", copy / name)
    Bundle.open(copy, verify=False)


def test_a_ladder_needs_its_indexes_and_a_step(copy):
    ladder = json.loads((copy / "ladder.json").read_text())
    for change, message in (
        ({"width": 5}, "rung exact5.*: the bundle has no index"),
        ({"on_ladder": False}, "no rung"),
    ):
        rungs = [{**rung, **change, "engine": "exact", "nprobe": 0} for rung in ladder["rungs"]]
        (copy / "ladder.json").write_text(json.dumps({**ladder, "rungs": rungs}))
        with pytest.raises(ArtifactError, match=message):
            Bundle.open(copy, verify=False)


def test_another_folder_is_no_bundle(dataset, tmp_path):
    with pytest.raises(ArtifactError, match="kind: got 'dataset', expected 'bundle'"):
        Bundle.open(dataset.path)
    with pytest.raises(ArtifactError, match="expected a bundle folder"):
        Bundle.open(tmp_path)


def test_an_error_in_the_middle_leaves_everything_as_it_was(dataset, tmp_path):
    first = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    before = files_of(tmp_path)

    def fail(stage, share):
        if stage == "measure the ladder" and share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path, towers=small_towers(dataset, seed=2), dataset=dataset, options=OPTIONS, progress=fail)
    assert files_of(tmp_path) == before
    assert open_current(tmp_path).path == first


KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.testing import small_towers
def die(stage, share):
    if stage == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
dataset = Dataset(Path(sys.argv[2]))
options = PublishOptions(num_queries=8, repeats=1)
write_bundle(Path(sys.argv[1]), towers=small_towers(dataset, seed=2), dataset=dataset, options=options, progress=die)
"""


def test_a_killed_publisher_changes_nothing_and_its_remains_are_swept(dataset, tmp_path):
    first = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(dataset.path), "write"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(path.name.startswith(".staging-") for path in tmp_path.iterdir())
    assert open_current(tmp_path).path == first
    second = write_bundle(tmp_path, towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, "CURRENT", "PREVIOUS"}


OPEN_AND_SEARCH = """
import numpy as np
from pathlib import Path
from recsys.bundle import Bundle
for path in sys.argv[1:]:
    bundle = Bundle.open(Path(path))
    history, features, seen = bundle.users.batch(np.arange(3))
    query = bundle.towers.encode_users(history, features)
    rows = bundle.searcher.search(query, k=2, rung=bundle.ladder.steps[-1]).rows_BK
    print(bundle.towers.layout.config.history, *rows.shape)
"""


def test_torchrec_is_not_needed_to_open_and_search(tmp_path):
    histories = ("mean", "attention", "sequence")
    bundles = [str(small_bundle(tmp_path, history=history)) for history in histories]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHREC + OPEN_AND_SEARCH, *bundles],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines() == [f"{history} 3 2" for history in histories], ran.stderr


def test_towers_of_another_dataset_are_refused(dataset, tmp_path):
    smaller = Dataset(small_dataset(tmp_path / "smaller", num_items=50))
    with pytest.raises(ArtifactError, match="items: the towers have 50, the dataset has 700"):
        write_bundle(tmp_path / "root", towers=small_towers(smaller), dataset=dataset, options=OPTIONS)
    fewer = Dataset(small_dataset(tmp_path / "fewer", num_items=700, num_users=5))
    with pytest.raises(ArtifactError, match="users: the towers have 5, the dataset has 60"):
        write_bundle(tmp_path / "root", towers=small_towers(fewer, user_id=True), dataset=dataset, options=OPTIONS)
    towers = small_towers(dataset)
    changed = replace(towers.specs[0], values=tuple(reversed(towers.specs[0].values)))
    towers.layout = replace(towers.layout, specs=(changed, *towers.specs[1:]))
    with pytest.raises(ArtifactError, match="feature genre: encoded otherwise"):
        write_bundle(tmp_path / "root", towers=towers, dataset=dataset, options=OPTIONS)
    towers.layout = replace(towers.layout, specs=towers.specs[1:])
    with pytest.raises(ArtifactError, match=r"features: the towers have \['title', 'group'\]"):
        write_bundle(tmp_path / "root", towers=towers, dataset=dataset, options=OPTIONS)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(("left", "named"), [(["train", "validation"], "validation"), (["train"], "all"), ([], None)])
def test_the_ladder_is_measured_with_whoever_there_is(tmp_path, left, named):
    source = small_dataset(tmp_path / "source")
    with artifact.staged(tmp_path / "dataset") as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        for split in {"train", "validation", "test"} - set(left):
            write_events(folder / f"{split}.arrow", [pl.read_ipc(folder / f"{split}.arrow").clear()])
        manifest = json.loads((folder / artifact.MANIFEST).read_text())
        (folder / artifact.MANIFEST).unlink()
        artifact.seal(folder, "dataset", {key: manifest[key] for key in ("name", "ordered", "mask_seen", "features")})
    dataset = Dataset(tmp_path / "dataset")
    if named is None:
        with pytest.raises(DataError, match="no user has an event"):
            write_bundle(tmp_path / "root", towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
    else:
        path = write_bundle(tmp_path / "root", towers=small_towers(dataset), dataset=dataset, options=OPTIONS)
        assert Bundle.open(path).ladder.measured["query_split"] == named


@pytest.mark.parametrize("history", ["mean", "attention", "sequence"])
def test_where_everybody_is_measured_with_nobody_is_learned_from(dataset, tmp_path, history):
    space = LadderSpace(engines=("exact", "ivf"), codes=("sq8",), levels=(0,), reranks=(0,), funnels=())
    options = PublishOptions(num_queries=1000, repeats=1, space=space)
    path = write_bundle(tmp_path, towers=small_towers(dataset, history=history), dataset=dataset, options=options)
    ladder = Bundle.open(path).ladder
    assert (ladder.measured["num_queries"], ladder.measured["cells_learned_from"]) == (60, 0)
    assert "ivf" in {rung.engine for rung in ladder.rungs}


def test_indexes_that_nobody_could_read_are_not_published(dataset, published, tmp_path, monkeypatch):
    root = Path(shutil.copytree(published.parent, tmp_path / "root"))
    before = files_of(root)
    space = LadderSpace(engines=("exact", "ivf"), codes=("pq2",), levels=(0,), reranks=(0,), funnels=())
    monkeypatch.setattr(product_codes, "with_order", lambda index, group: index)
    with pytest.raises(ArtifactError, match=r"pq2\.faiss: got a IndexIVFPQFastScan"):
        write_bundle(root, towers=small_towers(dataset), dataset=dataset, options=replace(OPTIONS, space=space))
    assert files_of(root) == before


@pytest.mark.parametrize("settings", [{"num_queries": 0}, {"repeats": 0}, {"ks": ()}, {"ks": (10, 0)}])
def test_options_that_cannot_be_right_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PublishOptions(**settings)
