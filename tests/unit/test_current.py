import threading

import pytest

from recsys import artifact
from recsys.current import current_version, rollback, set_current
from recsys.errors import ArtifactError


@pytest.fixture
def root(tmp_path):
    for version in ("v1", "v2", "v3"):
        with artifact.staged(tmp_path / version) as folder:
            artifact.seal(folder, "bundle", {})
    return tmp_path


def test_current_moves_and_rolls_back(root):
    set_current(root, "v1")
    set_current(root, "v2")
    assert current_version(root) == "v2"
    assert rollback(root) == current_version(root) == "v1"
    assert rollback(root) == current_version(root) == "v2"
    set_current(root, "v2")  # no move, so the version before stays known
    assert rollback(root) == "v1"


def test_pointers_are_one_line_of_text(root):
    set_current(root, "v1")
    set_current(root, "v3")
    assert (root / "CURRENT").read_text() == "v3\n"
    assert (root / "PREVIOUS").read_text() == "v1\n"
    assert {path.name for path in root.iterdir()} == {"v1", "v2", "v3", "CURRENT", "PREVIOUS"}


def test_without_a_version_before_there_is_no_way_back(root):
    with pytest.raises(ArtifactError, match="CURRENT: no such file"):
        current_version(root)
    with pytest.raises(ArtifactError, match="no PREVIOUS"):
        rollback(root)
    set_current(root, "v1")
    with pytest.raises(ArtifactError, match="no PREVIOUS"):
        rollback(root)


def test_a_publisher_that_died_between_the_pointers_is_noticed(root):
    set_current(root, "v1")
    (root / "PREVIOUS").write_text("v1\n")
    with pytest.raises(ArtifactError, match="names the current version v1"):
        rollback(root)
    assert current_version(root) == "v1"


@pytest.mark.parametrize("version", ["v4", "", ".", "..", "../v1", "v1/", "/v1", ".v1", "v1\nv2"])
def test_what_is_no_version_is_refused(root, version):
    set_current(root, "v1")
    with pytest.raises(ArtifactError, match="expected the name of a bundle folder"):
        set_current(root, version)
    assert current_version(root) == "v1"


@pytest.mark.parametrize("content", [b"v4\n", b"../v1\n", b"", b"\xff\xfe", b"v1\nv2\n"])
def test_a_damaged_pointer_is_refused(root, content):
    (root / "CURRENT").write_bytes(content)
    with pytest.raises(ArtifactError, match=str(root)):
        current_version(root)


def test_a_folder_that_is_no_bundle_is_not_made_current(root):
    (root / "v9").mkdir()
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        set_current(root, "v9")
    assert not (root / "CURRENT").exists()


def test_readers_never_see_a_torn_pointer(root):
    set_current(root, "v1")
    done, seen = threading.Event(), set()

    def read():
        while not done.is_set():
            seen.add(current_version(root))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(60):
        set_current(root, f"v{turn % 3 + 1}")
    done.set()
    for reader in readers:
        reader.join()
    assert seen <= {"v1", "v2", "v3"}
    assert len(seen) > 1
