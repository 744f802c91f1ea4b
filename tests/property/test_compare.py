"""What is marked kept, lost and gained, against the sets of the two lists."""

from hypothesis import given
from hypothesis import strategies as st

from serving.explorer.compare import compare

ids = st.lists(st.text(max_size=3), max_size=12, unique=True)


@given(ids, ids)
def test_marks_are_what_the_sets_say(answer, truth):
    compared = compare(answer, truth)
    marks = {item.item_id: item.mark for item in (*compared.answer, *compared.truth)}
    assert {item_id for item_id, mark in marks.items() if mark == "kept"} == set(answer) & set(truth)
    assert {item_id for item_id, mark in marks.items() if mark == "gained"} == set(answer) - set(truth)
    assert {item_id for item_id, mark in marks.items() if mark == "lost"} == set(truth) - set(answer)
    if truth:
        assert compared.overlap == len(set(answer) & set(truth)) / len(truth)
    else:
        assert compared.overlap is None


@given(ids, ids)
def test_places_point_at_each_other(answer, truth):
    compared = compare(answer, truth)
    for mine, others in ((compared.answer, truth), (compared.truth, answer)):
        assert [item.place for item in mine] == list(range(1, len(mine) + 1))
        for item in mine:
            assert (item.other_place is None) == (item.item_id not in others)
            if item.other_place is not None:
                assert others[item.other_place - 1] == item.item_id


@given(ids)
def test_the_truth_keeps_itself(truth):
    compared = compare(truth, truth)
    assert compared.num_kept == len(truth)
    assert all(item.mark == "kept" and item.place == item.other_place for item in compared.answer)
