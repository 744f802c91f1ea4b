import shutil
from dataclasses import asdict
from typing import get_args

import faiss
import numpy as np
import pytest

from recsys.errors import ArtifactError
from recsys.index.build import build_searcher
from recsys.index.cells import MIN_ITEMS_FOR_IVF
from recsys.index.files import load_searcher, write_indexes
from recsys.index.item_set import ItemSet
from recsys.index.product_codes import order
from recsys.index.specs import Code, IndexSpec, RungSpec, StoreCode
from recsys.index.store import map_vectors, save_vectors
from recsys.widths import Norm, WidthLadder, query_at

WIDTHS = WidthLadder([4, 8, 16])


def unit(num, width, seed):
    vector = np.random.default_rng(seed).normal(size=(num, width)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def store():
    return unit(MIN_ITEMS_FOR_IVF, 16, seed=1)


@pytest.fixture
def folder(store, tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    write_indexes(build_searcher(store, widths=WIDTHS, seed=1), folder)
    return folder


def test_a_loaded_searcher_answers_like_the_built_one(store, folder, tmp_path):
    save_vectors(store, tmp_path / "store.safetensors", metadata={"made": "here"})
    mapped, notes = map_vectors(tmp_path / "store.safetensors")
    assert notes == {"made": "here"}
    assert not mapped.flags.writeable
    built, loaded = build_searcher(store, widths=WIDTHS, seed=1), load_searcher(folder, mapped, widths=WIDTHS)
    queries, allowed = unit(7, 16, seed=2), ItemSet.all_but(np.arange(9), len(store))
    for engine, nprobe in (("exact", 0), ("ivf", 3)):
        for width in WIDTHS:
            for rerank in (0, 40):
                rung = RungSpec(engine=engine, width=width, nprobe=nprobe, rerank=rerank)
                one, other = (made.search(queries, k=10, rung=rung, allowed=allowed) for made in (built, loaded))
                assert (one.rows_BK == other.rows_BK).all()
                assert (one.scores_BK == other.scores_BK).all()


INDEXES = [
    IndexSpec(engine="exact", width=16),
    IndexSpec(engine="exact", width=8, levels=2),
    *(IndexSpec(engine="ivf", width=16, routing=4, code=code) for code in get_args(Code)),
    IndexSpec(engine="ivf", width=16, routing=8, levels=4),
    IndexSpec(engine="ivf", width=4, routing=16),
    IndexSpec(engine="hnsw", width=8),
    IndexSpec(engine="certified", width=16, routing=4),
    IndexSpec(engine="certified", width=16),
]
STORES = get_args(StoreCode)


def rungs_of(index):
    effort = {"ivf": {"nprobe": 5}, "hnsw": {"ef": 64}}.get(index.engine, {})
    yield RungSpec(**asdict(index), **effort)
    if index.engine != "certified":
        for store in STORES:
            yield RungSpec(**asdict(index), **effort, rerank=40, store=store)


@pytest.mark.parametrize("norm", get_args(Norm))
def test_every_engine_and_store_answers_from_its_files_as_it_did(store, tmp_path, norm):
    widths = WidthLadder(WIDTHS.widths, norm=norm)
    built = build_searcher(store, widths=widths, seed=1, indexes=INDEXES, stores=STORES)
    write_indexes(built, tmp_path)
    loaded = load_searcher(tmp_path, store, widths=widths)
    assert set(loaded.indexes) == set(INDEXES)
    queries, allowed = unit(7, 16, seed=2), ItemSet.all_but(np.arange(9), len(store))
    for rung in (rung for index in INDEXES for rung in rungs_of(index)):
        one, other = (made.search(queries, k=10, rung=rung, allowed=allowed) for made in (built, loaded))
        assert (one.rows_BK == other.rows_BK).all(), rung.name
        assert (one.scores_BK == other.scores_BK).all(), rung.name
        assert built.size_bytes(rung) == loaded.size_bytes(rung)


def test_counted_bytes_are_those_of_the_files(store, tmp_path):
    for place, index in enumerate(INDEXES[1:]):
        folder = tmp_path / str(place)
        folder.mkdir()
        searcher = build_searcher(store, widths=WIDTHS, seed=1, indexes=[index], stores=["fp16"])
        write_indexes(searcher, folder)
        size = {path.name: path.stat().st_size for path in folder.iterdir() if path.suffix != ".json"}
        norms, halves = size.pop("norms.safetensors"), size.pop("store-fp16.safetensors")
        counted = searcher.indexes[index].size_bytes
        # Headers, and what FAISS writes beside codes: tables of its quantisers.
        assert counted == pytest.approx(sum(size.values()), rel=0.03, abs=3000), index.name
        if index.engine != "certified":
            rung = next(rung for rung in rungs_of(index) if rung.store == "fp16")
            read = norms / 2 if index.code == "float32" and index.width < 16 else 0
            assert searcher.size_bytes(rung) - counted == pytest.approx(halves + read, abs=1000)


def test_the_full_width_is_stored_once(folder):
    assert {path.name for path in folder.iterdir()} == {
        *("indexes.json", "norms.safetensors", "exact4.faiss", "exact8.faiss"),
        *(f"{name}{width}{cells}.faiss" for name, cells in (("ivf", ""), ("cells", "c16")) for width in WIDTHS),
    }


def test_a_missing_or_foreign_file_is_named(store, folder):
    (folder / "exact32.faiss").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"exact32\.faiss: not a file of the indexes"):
        load_searcher(folder, store, widths=WIDTHS)
    (folder / "exact32.faiss").unlink()
    for name in ("ivf8.faiss", "cells8c16.faiss", "norms.safetensors", "indexes.json"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            load_searcher(folder, store, widths=WIDTHS)
        (folder / name).write_bytes(content)
    load_searcher(folder, store, widths=WIDTHS)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"indexes": [{"engine": "tree", "width": 4}], "stores": []}', '{"indexes": 3}']
)
def test_a_list_of_indexes_that_is_none_is_named(store, folder, text):
    (folder / "indexes.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"indexes\.json: not a list of indexes"):
        load_searcher(folder, store, widths=WIDTHS)


def test_stores_and_norms_of_other_vectors_are_refused(store, tmp_path):
    other = unit(MIN_ITEMS_FOR_IVF + 1, 16, seed=3)
    spec = IndexSpec(engine="certified", width=16)
    write_indexes(build_searcher(store, widths=WIDTHS, seed=1, indexes=[spec], stores=STORES), tmp_path)
    for name in ("norms", "store-fp16", "store-sq8", "certified16"):
        (tmp_path / str(name)).mkdir()
        write_indexes(build_searcher(other, widths=WIDTHS, seed=1, indexes=[spec], stores=STORES), tmp_path / name)
        path = tmp_path / f"{name}.safetensors"
        own = path.read_bytes()
        path.write_bytes((tmp_path / name / path.name).read_bytes())
        for folder in tmp_path.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
        with pytest.raises(ArtifactError, match=rf"{name}\.safetensors: .*expected"):
            load_searcher(tmp_path, store, widths=WIDTHS)
        path.write_bytes(own)


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


def test_a_table_that_is_computed_on_reading_may_be_larger_than_the_file(tmp_path):
    store, widths = unit(1_700, 128, seed=1), WidthLadder([128])
    rung = RungSpec(engine="ivf", width=128, code="pq2", nprobe=4)
    built = build_searcher(store, widths=widths, seed=1, indexes=[rung.index])
    write_indexes(built, tmp_path)
    file_bytes = (tmp_path / f"{rung.index.name}.faiss").stat().st_size
    assert file_bytes < 4 * 32 * 64 * 16
    loaded = load_searcher(tmp_path, store, widths=widths)
    query = unit(3, 128, seed=2)
    assert (loaded.search(query, k=5, rung=rung).rows_BK == built.search(query, k=5, rung=rung).rows_BK).all()


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
    (folder / "norms.safetensors").unlink()
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
        with pytest.raises(ArtifactError, match="item_vectors: got"):
            map_vectors(path)


def test_codes_of_differences_from_other_bases_than_the_centres_are_added_to_those(store, tmp_path):
    spec = IndexSpec(engine="ivf", width=8, code="pq2")
    rung = RungSpec(engine="ivf", width=8, code="pq2", nprobe=16)
    write_indexes(build_searcher(store, widths=WIDTHS, seed=1, indexes=[spec]), tmp_path)
    query = unit(1, 16, seed=5)
    before = load_searcher(tmp_path, store, widths=WIDTHS).search(query, k=300, rung=rung)
    path = tmp_path / "ivf8-pq2.faiss"
    file = faiss.read_index(str(path))
    index = faiss.downcast_index(file.index)
    bases, away = faiss.downcast_index(index.quantizer), np.linspace(0, 1, 8, dtype=np.float32)
    moved = bases.reconstruct_n(0, bases.ntotal) + away[order(8, 2)]
    bases.reset()
    bases.add(moved)
    faiss.write_index(file, str(path))
    after = load_searcher(tmp_path, store, widths=WIDTHS).search(query, k=300, rung=rung)
    shift = float(query_at(query, 8, WIDTHS)[0] @ away)
    assert abs(shift) > 0.1
    np.testing.assert_allclose(after.scores_BK, before.scores_BK + shift, atol=0.02)
