"""The live bundle changes only to another whole one."""

import json

import pytest

from recsys.bundle import current_version, rollback
from recsys.errors import ArtifactError
from recsys.testing import small_bundle
from serving.bundles import LiveBundle
from serving.engine import Engine


@pytest.fixture
def root(tmp_path):
    small_bundle(tmp_path)
    return tmp_path


def test_the_current_version_is_live(root):
    assert LiveBundle(root, Engine).engine.bundle.version == current_version(root)


def test_reloading_follows_current_and_calls_in_flight_keep_theirs(root):
    live = LiveBundle(root, Engine)
    before = live.engine
    assert not live.reload()
    assert live.engine is before
    small_bundle(root, seed=2)
    assert live.engine is before
    assert live.reload()
    assert live.engine.bundle.version == current_version(root) != before.bundle.version
    rollback(root)
    assert live.reload()
    assert live.engine.bundle.version == before.bundle.version


def test_a_damaged_bundle_is_refused_and_the_one_before_stays(root):
    live = LiveBundle(root, Engine)
    before = live.engine
    damaged = small_bundle(root, seed=2)
    ladder = json.loads((damaged / "ladder.json").read_text())
    ladder["rungs"][0]["latency_p99_ms"] /= 2
    (damaged / "ladder.json").write_text(json.dumps(ladder))
    with pytest.raises(ArtifactError, match=r"ladder\.json"):
        live.reload()
    assert live.engine is before


def test_without_a_published_bundle_there_is_nothing_to_serve(tmp_path):
    with pytest.raises(ArtifactError, match="CURRENT"):
        LiveBundle(tmp_path, Engine)
