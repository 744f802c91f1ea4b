import faiss
import numpy as np
import pytest

from recsys.errors import ArtifactError
from recsys.index.build import build_searcher
from recsys.index.cells import MIN_ITEMS_FOR_IVF
from recsys.index.files import expected_files, load_searcher, write_indexes
from recsys.index.specs import RungSpec
from recsys.index.store import map_vectors, save_vectors
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8, 16])


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def store():
    return unit(MIN_ITEMS_FOR_IVF, 16, seed=1)


@pytest.fixture
def folder(store, tmp_path):
    write_indexes(build_searcher(store, widths=WIDTHS, seed=1), tmp_path)
    return tmp_path


def test_a_loaded_searcher_answers_like_the_built_one(store, folder, tmp_path):
    save_vectors(store, tmp_path / "store.safetensors", metadata={"made": "here"})
    mapped, notes = map_vectors(tmp_path / "store.safetensors")
    assert notes == {"made": "here"}
    assert not mapped.flags.writeable
    built, loaded = build_searcher(store, widths=WIDTHS, seed=1), load_searcher(folder, mapped, widths=WIDTHS)
    queries = unit(7, 16, seed=2)
    for engine, nprobe in (("exact", 0), ("ivf", 3)):
        for width in WIDTHS:
            for rerank in (0, 40):
                rung = RungSpec(engine=engine, width=width, nprobe=nprobe, rerank=rerank)
                one, other = (made.search(queries, k=10, rung=rung, exclude=np.arange(9)) for made in (built, loaded))
                assert (one.rows_BK == other.rows_BK).all()
                assert (one.scores_BK == other.scores_BK).all()


def test_every_width_has_its_files_and_the_full_width_is_stored_once(folder):
    assert {path.name for path in folder.iterdir()} == {
        "exact4.faiss",
        "exact8.faiss",
        "ivf4.faiss",
        "ivf8.faiss",
        "ivf16.faiss",
    }
    assert expected_files(10, WIDTHS) == {"exact4.faiss": ("exact", 4), "exact8.faiss": ("exact", 8)}


def test_a_missing_or_foreign_file_is_named(store, folder):
    (folder / "exact32.faiss").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"exact32\.faiss: not an index of"):
        load_searcher(folder, store, widths=WIDTHS)
    (folder / "exact32.faiss").unlink()
    (folder / "ivf8.faiss").unlink()
    with pytest.raises(ArtifactError, match=r"ivf8\.faiss: no such file"):
        load_searcher(folder, store, widths=WIDTHS)


@pytest.mark.parametrize("content", [b"", b"not an index", b"IxFI" + b"\xff" * 60])
def test_a_file_that_is_no_index_is_named(store, folder, content):
    (folder / "exact8.faiss").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"exact8\.faiss: not a FAISS index"):
        load_searcher(folder, store, widths=WIDTHS)


def test_a_truncated_file_is_named(store, folder):
    for name in ("exact8.faiss", "ivf8.faiss"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ArtifactError, match=name):
            load_searcher(folder, store, widths=WIDTHS)
        (folder / name).write_bytes(whole)
    load_searcher(folder, store, widths=WIDTHS)


def test_limits_of_the_process_are_put_back(store, folder):
    before = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
    load_searcher(folder, store, widths=WIDTHS)
    assert (faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()) == before


@pytest.mark.parametrize(
    ("name", "index", "message"),
    [
        ("exact8.faiss", faiss.IndexFlatL2(8), "got a IndexFlatL2"),
        ("exact8.faiss", faiss.IndexFlatIP(4), "width: got 4, expected 8"),
        ("exact8.faiss", faiss.IndexFlatIP(8), "items: got 0, expected 624"),
        ("ivf8.faiss", faiss.IndexFlatIP(8), "got a IndexFlatIP"),
        ("ivf8.faiss", faiss.IndexIVFFlat(faiss.IndexFlatIP(8), 8, 16, faiss.METRIC_INNER_PRODUCT), "trained"),
    ],
)
def test_an_index_of_another_kind_or_shape_is_refused(store, folder, name, index, message):
    faiss.write_index(index, str(folder / name))
    with pytest.raises(ArtifactError, match=f"{name}: .*{message}"):
        load_searcher(folder, store, widths=WIDTHS)


def test_an_index_of_another_norm_is_refused(store, folder):
    with pytest.raises(
        ArtifactError, match=r"exact4\.faiss: its vectors are not the item vectors cut to 4 with norm full"
    ):
        load_searcher(folder, store, widths=WidthLadder(WIDTHS.widths, norm="full"))


def test_an_index_of_other_vectors_of_the_same_shape_is_refused(folder):
    with pytest.raises(ArtifactError, match=r"exact4\.faiss: its vectors are not the item vectors"):
        load_searcher(folder, unit(MIN_ITEMS_FOR_IVF, 16, seed=2), widths=WIDTHS)


def test_a_store_of_another_kind_is_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "store.safetensors"
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        map_vectors(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        map_vectors(path)
    save_file({"other": np.zeros((2, 2), dtype=np.float32)}, path)
    with pytest.raises(ArtifactError, match=r"tensors: got \['other'\]"):
        map_vectors(path)
    for wrong in (np.zeros((2, 2)), np.zeros(2, dtype=np.float32), np.zeros((0, 2), dtype=np.float32)):
        save_file({"item_vectors": wrong}, path)
        with pytest.raises(ArtifactError, match="expected a float32 matrix"):
            map_vectors(path)
