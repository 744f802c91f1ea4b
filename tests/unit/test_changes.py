"""The log of changes: what was acknowledged is read again, what was never finished is not, and damage is refused."""

import numpy as np
import pytest

from recsys.changes import LOG, Batch, ChangedItem, ChangeLog, last_words, read_changes
from recsys.errors import ArtifactError


def item(id_, **rest):
    return ChangedItem(id=id_, **rest)


def write(folder, batches):
    log = ChangeLog(folder)
    _, end = log.read(log.start)
    with log.writing():
        for batch in batches:
            log.append(line := batch.to_line(), end=end)
            end += len(line)
    log.close()
    return end


def batch(sequence, *, upserts=(), deletes=()):
    return Batch(sequence=sequence, model_id="m", upserts=[item(id_) for id_ in upserts], deletes=list(deletes))


def test_what_was_written_is_read_again(tmp_path):
    vector_D = np.array([0.6, -0.8], dtype=np.float32)
    full = item("é 1", title='A "title"\nof two lines', features={"genre": ["drama", "war"]}, vector_D=vector_D)
    write(tmp_path, [Batch(sequence=1, model_id="m1", upserts=[full, item("b")]), batch(2, deletes=["b", "c"])])
    log = ChangeLog(tmp_path)
    (first, second), end = log.read(log.start)
    assert end == log.size_bytes
    assert (first.sequence, first.model_id, second.deletes) == (1, "m1", ["b", "c"])
    read = first.upserts[0]
    assert (read.id, read.title, read.features) == (full.id, full.title, full.features)
    assert read.vector_D.tolist() == vector_D.tolist()
    assert first.upserts[1].vector_D is None
    assert log.read(end) == ([], end)


def test_a_log_keeps_its_id_and_two_logs_have_two(tmp_path):
    assert ChangeLog(tmp_path / "a").id == ChangeLog(tmp_path / "a").id != ChangeLog(tmp_path / "b").id


def test_the_last_word_on_an_id_counts(tmp_path):
    write(tmp_path, [batch(1, upserts=["a", "b"]), batch(2, deletes=["a", "x"]), batch(3, upserts=["x"])])
    changes = read_changes(tmp_path)
    assert changes.sequence == 3
    assert [(id_, made.sequence, bool(now)) for id_, (made, now) in changes.last.items()] == [
        ("b", 1, True),
        ("a", 2, False),
        ("x", 3, True),
    ]


def test_every_torn_end_is_passed_over_and_cut_off_by_the_next_writer(tmp_path, caplog):
    first = write(tmp_path, [batch(1, upserts=["a"])])
    last = write(tmp_path, [batch(2, upserts=["b"])])
    path = tmp_path / LOG
    whole = path.read_bytes()
    for end in range(first, last):
        path.write_bytes(whole[:end])
        log = ChangeLog(tmp_path)
        batches, after = log.read(log.start)
        assert [one.sequence for one in batches] == [1]
        assert after == first
        log.close()
    path.write_bytes(whole[: last - 9] + b"\0" * 8 + b"\n")
    assert read_changes(tmp_path).sequence == 1
    write(tmp_path, [batch(2, upserts=["c"])])
    assert f"the last {last - first} bytes were never finished; cut off" in caplog.text
    assert list(read_changes(tmp_path).last) == ["a", "c"]


def test_damage_with_more_after_it_is_refused(tmp_path):
    write(tmp_path, [batch(1, upserts=["a"]), batch(2, upserts=["b"])])
    path = tmp_path / LOG
    path.write_bytes(path.read_bytes().replace(b'"id":"a"', b'"id":"z"'))
    with pytest.raises(ArtifactError, match=r"changes\.log: damaged at byte \d+, with more after it"):
        read_changes(tmp_path)


def test_a_missing_batch_is_refused(tmp_path):
    write(tmp_path, [batch(1), batch(2), batch(3)])
    path = tmp_path / LOG
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    with pytest.raises(ArtifactError, match="got batch 3 after 1"):
        read_changes(tmp_path)


def test_another_file_under_its_name_is_refused(tmp_path):
    (tmp_path / LOG).write_text("hello\n")
    with pytest.raises(ArtifactError, match="got another kind of file"):
        ChangeLog(tmp_path)


def test_a_folder_without_a_log_is_refused_by_who_only_reads(tmp_path):
    with pytest.raises(ArtifactError, match="got no log of changes there"):
        read_changes(tmp_path / "nowhere")


def test_an_item_that_is_put_in_and_deleted_in_one_batch_is_gone():
    assert last_words([batch(1, upserts=["a"], deletes=["a"])])["a"][1] is None
