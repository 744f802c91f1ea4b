"""Whatever changes come, from whichever process, wherever one starts again: searches see what was said last."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from recsys.bundle import open_current
from recsys.changes import LOG, ChangedItem
from recsys.ragged import Ragged
from recsys.testing import small_bundle
from serving.budget import Budget
from serving.catalogue import Catalogue
from serving.engine import Engine
from serving.query import Query, User

IDS = st.sampled_from(["i0", "i1", "i7", "i33", "i79", "new", "newer", "newest"])
GENRES = st.sampled_from(["comedy", "drama", "horror"])
PROCESSES = st.integers(0, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    small_bundle(root)
    return open_current(root)


def machine(bundle):
    specs = {spec.name: spec for spec in bundle.towers.specs}
    (user_D,) = bundle.towers.encode_users(Ragged.from_lists([[]]))

    class Changing(RuleBasedStateMachine):
        """Two processes that share a folder, and beside them what each item's score should be."""

        @initialize()
        def start(self):
            self.temporary = tempfile.TemporaryDirectory()
            self.folder = Path(self.temporary.name)
            self.expected = dict(zip(bundle.items.ids(range(80)), bundle.item_vectors @ user_D, strict=True))
            self.processes = {number: self.opened() for number in range(2)}

        def opened(self):
            catalogue = Catalogue(self.folder)
            return catalogue, Engine(bundle, view=catalogue.follow(bundle).view)

        def teardown(self):
            self.temporary.cleanup()

        @rule(process=PROCESSES, genre_of=st.dictionaries(IDS, GENRES, min_size=1))
        def upsert(self, process, genre_of):
            given = [ChangedItem(id=id_, features={"genre": [genre]}) for id_, genre in genre_of.items()]
            done = self.processes[process][0].upsert(given)
            assert done.num_gone == len(genre_of.keys() & self.expected.keys())
            bags = {"genre": Ragged.from_lists([specs["genre"].encode([genre]) for genre in genre_of.values()])}
            vector_MD = bundle.towers.encode_items(bundle.items.rows(genre_of), bags)
            self.expected |= dict(zip(genre_of, vector_MD @ user_D, strict=True))

        @rule(process=PROCESSES, ids=st.sets(IDS, min_size=1))
        def delete(self, process, ids):
            done = self.processes[process][0].delete(sorted(ids))
            assert done.num_gone == len(ids & self.expected.keys())
            for id_ in ids:
                self.expected.pop(id_, None)

        @rule(process=PROCESSES, torn=st.binary(max_size=20))
        def restart(self, process, torn):
            with (self.folder / LOG).open("ab") as file:
                file.write(torn.replace(b"\n", b""))
            self.processes[process] = self.opened()

        @invariant()
        def every_search_sees_what_was_said_last(self):
            for _, engine in self.processes.values():
                for width in (4, 16):
                    query = Query(user=User(history=()), k=100, budget=Budget(width=width))
                    found = engine.recommend(query).candidates[0]
                    assert len(found.item_ids) == len(self.expected) == engine.view().num_items
                    if width == 16 or len(engine.view().items):
                        scores = [self.expected[id_] for id_ in found.item_ids]
                        assert np.allclose(found.scores, scores, atol=1e-5)
                    assert set(found.item_ids) == self.expected.keys()

    return Changing


def test_searches_see_what_was_said_last(bundle):
    run_state_machine_as_test(machine(bundle), settings=settings(stateful_step_count=8))
