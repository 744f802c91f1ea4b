import contextlib
import itertools
import json
import subprocess
import sys
import threading

import pytest

from recsys import artifact
from recsys.errors import ArtifactError


def make(target, *, replace=False, content="one", **manifest):
    with artifact.staged(target, replace=replace) as folder:
        (folder / "inner").mkdir()
        (folder / "data.txt").write_text(content)
        (folder / "inner" / "more.bin").write_bytes(bytes(range(50)))
        artifact.seal(folder, "thing", {"name": "ünï", "half": 0.5, **manifest})
    return target


def test_a_sealed_folder_is_read_back(tmp_path):
    target = make(tmp_path / "deep" / "thing")
    manifest = artifact.read_manifest(target, "thing")
    artifact.verify(target, manifest)
    assert manifest["name"] == "ünï"
    assert set(manifest["files"]) == {"data.txt", "inner/more.bin"}
    assert manifest["files"]["inner/more.bin"]["size_bytes"] == 50
    assert manifest["versions"]["python"]
    assert [path.name for path in target.parent.iterdir()] == ["thing"]


def test_fingerprints_follow_the_content(tmp_path):
    one, same, other = (make(tmp_path / name, content=text) for name, text in (("a", "x"), ("b", "x"), ("c", "y")))
    one, same, other = (artifact.read_manifest(path, "thing")["fingerprint"] for path in (one, same, other))
    assert one == same != other


@pytest.mark.parametrize(
    "bit", [0, 5, pytest.param(2, marks=pytest.mark.deep), pytest.param(7, marks=pytest.mark.deep)]
)
def test_a_flipped_bit_anywhere_in_a_manifest_is_refused(tmp_path, bit):
    path = make(tmp_path / "thing") / artifact.MANIFEST
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(ArtifactError, match=r"manifest\.json"):
            artifact.read_manifest(path.parent, "thing")
    path.write_bytes(whole)
    artifact.read_manifest(path.parent, "thing")


def test_a_manifest_laid_out_anew_is_refused(tmp_path):
    path = make(tmp_path / "thing") / artifact.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(ArtifactError, match="not written as it was"):
        artifact.read_manifest(path.parent, "thing")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not readable as JSON"), ("[1]", "kind: got 'list'"), ("{}", "kind: got None, expected 'thing'")],
)
def test_other_text_is_no_manifest(tmp_path, text, message):
    (tmp_path / artifact.MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        artifact.read_manifest(tmp_path, "thing")


def test_another_kind_or_format_is_refused(tmp_path):
    target = make(tmp_path / "thing")
    with pytest.raises(ArtifactError, match="kind: got 'thing', expected 'bundle'"):
        artifact.read_manifest(target, "bundle")
    manifest = json.loads((target / artifact.MANIFEST).read_text())
    (target / artifact.MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(ArtifactError, match="format: got 2, expected 1"):
        artifact.read_manifest(target, "thing")
    with pytest.raises(ArtifactError, match="expected a thing folder"):
        artifact.read_manifest(tmp_path / "nowhere", "thing")


def test_damage_names_the_file(tmp_path):
    target = make(tmp_path / "thing")
    manifest = artifact.read_manifest(target, "thing")
    (target / "data.txt").write_text("two")
    with pytest.raises(ArtifactError, match=r"data\.txt: SHA-256"):
        artifact.verify(target, manifest)
    (target / "data.txt").write_text("three")
    with pytest.raises(ArtifactError, match=r"data\.txt: size: got 5 bytes, expected 3"):
        artifact.verify(target, manifest)
    (target / "data.txt").unlink()
    with pytest.raises(ArtifactError, match=r"file missing: data\.txt"):
        artifact.verify(target, manifest)
    (target / "data.txt").write_text("one")
    (target / "inner" / "extra").touch()
    with pytest.raises(ArtifactError, match="file not in the manifest: inner/extra"):
        artifact.verify(target, manifest)


def test_an_existing_folder_is_not_written_over_unasked(tmp_path):
    target = make(tmp_path / "thing")
    with pytest.raises(ArtifactError, match="already exists"):
        make(target, content="two")
    assert (target / "data.txt").read_text() == "one"
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="already exists"):
        make(tmp_path / "file", replace=True)


def test_replacing_swaps_the_whole_folder(tmp_path):
    target = make(tmp_path / "thing")
    (target / "left-over").touch()
    make(target, replace=True, content="two")
    artifact.verify(target, artifact.read_manifest(target, "thing"))
    assert (target / "data.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_replaced_folder_is_never_seen_missing_or_mixed(tmp_path):
    target = make(tmp_path / "thing", content="0")
    done, seen = threading.Event(), []

    def read():
        while not done.is_set():
            seen.append((target / "data.txt").read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for version in range(1, 40):
        make(target, replace=True, content=str(version))
    done.set()
    reader.join()
    assert len(seen) > 10
    assert seen == sorted(seen, key=int)


def test_an_error_leaves_nothing_behind(tmp_path):
    def fail():
        with artifact.staged(tmp_path / "thing") as folder:
            (folder / "data.txt").touch()
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from recsys import artifact
with artifact.staged(Path(sys.argv[1])) as folder:
    (folder / "data.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


# A file that was just opened is closed by the garbage collector, which Python warns of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("replace", [False, True])
def test_ctrl_c_between_any_two_steps_leaves_a_whole_folder_or_none(tmp_path, replace):
    """Python raises KeyboardInterrupt between two instructions: here at each line of the module that a writer runs."""
    for number in itertools.count():
        parent = tmp_path / str(number)
        old = make(parent / "thing", content="old") if replace else None
        parent.mkdir(exist_ok=True)
        with interrupted_at(number) as interrupted, contextlib.suppress(KeyboardInterrupt):
            make(parent / "thing", content="new", replace=replace)
        left = [path.name for path in parent.iterdir()]
        assert left in ([], ["thing"]) if old is None else left == ["thing"], interrupted
        for name in left:
            artifact.verify(parent / name, artifact.read_manifest(parent / name, "thing"))
        if not interrupted:
            break
    assert number > 30


@contextlib.contextmanager
def interrupted_at(number):
    """Raise KeyboardInterrupt once, at the line of recsys/artifact.py that is run after so many others; say which."""
    lines, interrupted = itertools.count(), []

    def trace(frame, event, _):
        if frame.f_code.co_filename != artifact.__file__:
            return None
        if event == "line" and next(lines) == number:
            interrupted.append(frame.f_lineno)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield interrupted
    finally:
        sys.settrace(before)


def test_what_a_killed_writer_leaves_is_removed_by_the_next(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "other")], check=False)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".staging-other")
    make(tmp_path / "thing")
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_two_writers_do_not_disturb_each_other(tmp_path):
    with artifact.staged(tmp_path / "slow") as folder:
        (folder / "data.txt").write_text("slow")
        make(tmp_path / "quick")
        artifact.seal(folder, "thing", {})
    for name in ("slow", "quick"):
        manifest = artifact.read_manifest(tmp_path / name, "thing")
        artifact.verify(tmp_path / name, manifest)
        assert "data.txt" in manifest["files"]


def test_a_lock_lets_one_in_at_a_time(tmp_path):
    order = []

    def wait():
        with artifact.locked(tmp_path):
            order.append("second")

    with artifact.locked(tmp_path):
        second = threading.Thread(target=wait)
        second.start()
        second.join(timeout=0.1)
        order.append("first")
    second.join()
    assert order == ["first", "second"]


def test_checksums_are_those_of_the_standard(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert artifact.sha256(tmp_path / "file") == expected
