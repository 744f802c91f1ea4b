"""What must hold of every prefix of every vector: the laws that serving a narrower width relies on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.model.losses.blocks import item_scales, items_by_width, queries_by_width, query_scales
from recsys.testing import queries, vectors, width_ladders
from recsys.widths import as_queries, query_at, truncate, unit_queries


@st.composite
def ladder_and_vectors(draw, *, rows=6, **which):
    ladder = draw(width_ladders(**which))
    return ladder, draw(vectors(ladder, rows=rows))


@st.composite
def ladder_queries_and_vectors(draw, *, rows=4, **which):
    ladder, vector_BD = draw(ladder_and_vectors(rows=rows, **which))
    return ladder, draw(queries(ladder, rows=rows)), vector_BD


def two_widths(data, ladder):
    return sorted(data.draw(st.tuples(st.sampled_from(ladder.widths), st.sampled_from(ladder.widths))))


@given(world=ladder_and_vectors(), data=st.data())
def test_truncation_composes_and_is_idempotent(world, data):
    ladder, vector_BD = world
    narrow, wide = two_widths(data, ladder)
    once = truncate(vector_BD, narrow, ladder)
    np.testing.assert_allclose(truncate(truncate(vector_BD, wide, ladder), narrow, ladder), once, atol=1e-6)
    np.testing.assert_allclose(truncate(once, narrow, ladder), once, atol=1e-6)


@given(world=ladder_and_vectors(norms=("prefix",)), data=st.data())
def test_rows_have_unit_length_and_keep_direction(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    cut = truncate(vector_BD, width, ladder)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    prefix = vector_BD[:, :width].astype(np.float64)
    np.testing.assert_allclose(cut, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-5)


@given(world=ladder_and_vectors(norms=("full",)), data=st.data())
def test_with_norm_full_truncation_is_slicing_of_unit_vectors(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    full_BD = truncate(vector_BD, ladder.full, ladder)
    np.testing.assert_allclose(np.linalg.norm(full_BD, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(truncate(vector_BD, width, ladder), full_BD[:, :width])


@given(world=ladder_queries_and_vectors(norms=("full",), heads=("tied",)))
def test_with_norm_full_scores_add_up_to_the_full_width_cosine(world):
    ladder, query_BU, vector_BD = (
        array if place == 0 else array.astype(np.float64) for place, array in enumerate(world)
    )
    scores = [query_at(query_BU, width, ladder) @ truncate(vector_BD, width, ladder).T for width in ladder]
    full_BD, query_BD = truncate(vector_BD, ladder.full, ladder), query_at(query_BU, ladder.full, ladder)
    parts = [query_BD[:, block] @ full_BD[:, block].T for block in ladder.blocks]
    for score_BN, expected_BN in zip(scores, np.cumsum(parts, axis=0), strict=True):
        np.testing.assert_allclose(score_BN, expected_BN, atol=1e-12)


@given(world=ladder_queries_and_vectors(), data=st.data())
def test_unit_queries_ask_the_same_at_every_width(world, data):
    ladder, query_BU, _ = world
    width = data.draw(st.sampled_from(ladder.widths))
    unit_BU = unit_queries(query_BU, ladder)
    for block in ladder.query_blocks:
        np.testing.assert_allclose(np.linalg.norm(unit_BU[:, block], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(query_at(unit_BU, width, ladder), query_at(query_BU, width, ladder), atol=1e-6)


@given(world=ladder_queries_and_vectors(), data=st.data(), scale=st.floats(0.01, 100))
def test_the_scale_of_a_query_never_matters(world, data, scale):
    ladder, query_BU, _ = world
    width = data.draw(st.sampled_from(ladder.widths))
    query_BU = query_BU.astype(np.float64)
    np.testing.assert_allclose(query_at(query_BU * scale, width, ladder), query_at(query_BU, width, ladder), atol=1e-12)


@given(world=ladder_queries_and_vectors(), data=st.data())
def test_other_heads_do_not_matter_at_a_width(world, data):
    ladder, query_BU, _ = world
    place = data.draw(st.integers(0, len(ladder) - 1))
    other = query_BU.copy()
    if ladder.head == "per_width":
        other[:, : ladder.query_blocks[place].start] += 1000
        other[:, ladder.query_blocks[place].stop :] += 1000
    elif ladder.norm == "prefix":
        other[:, ladder.widths[place] :] += 1000
    width = ladder.widths[place]
    np.testing.assert_array_equal(query_at(other, width, ladder), query_at(query_BU, width, ladder))


@given(world=ladder_and_vectors(), data=st.data())
def test_an_item_as_a_query_is_its_own_nearest_direction(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    query_Bw = query_at(as_queries(vector_BD, ladder), width, ladder).astype(np.float64)
    item_Bw = truncate(vector_BD, width, ladder).astype(np.float64)
    own_B = (query_Bw * item_Bw).sum(axis=1)
    np.testing.assert_allclose(own_B, np.linalg.norm(query_Bw, axis=1) * np.linalg.norm(item_Bw, axis=1), atol=1e-5)


@given(world=ladder_and_vectors(), data=st.data())
def test_signs_commute_with_truncation(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    cut = truncate(vector_BD, width, ladder)
    # Scaling by a positive number can flush the tiniest coordinates to zero but never flips a sign.
    assert (np.sign(cut) * np.sign(vector_BD[:, :width]) >= 0).all()
    large = np.abs(cut) > 1e-30
    assert (np.signbit(cut) == np.signbit(vector_BD[:, :width]))[large].all()


@given(world=ladder_and_vectors(), data=st.data())
def test_numpy_and_torch_agree(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    from_torch = truncate(torch.from_numpy(vector_BD), width, ladder).numpy()
    np.testing.assert_allclose(truncate(vector_BD, width, ladder), from_torch, atol=1e-6)


@given(world=ladder_queries_and_vectors(), data=st.data())
def test_numpy_and_torch_agree_on_queries(world, data):
    ladder, query_BU, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    from_torch = query_at(torch.from_numpy(query_BU), width, ladder), as_queries(torch.from_numpy(vector_BD), ladder)
    for ours, theirs in zip(
        (query_at(query_BU, width, ladder), as_queries(vector_BD, ladder)), from_torch, strict=True
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


@given(world=ladder_and_vectors(), data=st.data())
def test_truncating_a_batch_is_truncating_each_row(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    one_by_one = np.stack([truncate(row, width, ladder) for row in vector_BD])
    np.testing.assert_allclose(truncate(vector_BD, width, ladder), one_by_one, atol=1e-6)


def scaled_by_width(query_BU, item_ND, ladder):
    return (
        queries_by_width(query_BU, query_scales(query_BU, ladder), ladder),
        items_by_width(item_ND, item_scales(item_ND, ladder), ladder),
    )


@given(world=ladder_queries_and_vectors())
def test_training_sees_what_serving_does_at_every_width(world):
    ladder, *both = world
    query_BU, item_ND = (torch.from_numpy(vector.astype(np.float64)) for vector in both)
    for width, query_Bw, item_Nw in zip(ladder, *scaled_by_width(query_BU, item_ND, ladder), strict=True):
        torch.testing.assert_close(query_Bw, query_at(query_BU, width, ladder), atol=1e-9, rtol=0)
        torch.testing.assert_close(item_Nw, truncate(item_ND, width, ladder), atol=1e-9, rtol=0)


@given(world=ladder_and_vectors(rows=8), scale=st.floats(0.01, 100))
def test_scaling_the_query_never_changes_the_order(world, scale):
    ladder, vector_BD = world
    query_D, item_ND = vector_BD[0].astype(np.float64), truncate(vector_BD[1:].astype(np.float64), ladder.full, ladder)
    score_N, scaled_N = item_ND @ query_D, item_ND @ (query_D * scale)
    # Only scores that differ by more than rounding have an order to keep.
    apart = score_N[:, None] > score_N[None, :] + 1e-9 * np.abs(score_N).max()
    assert (scaled_N[:, None] > scaled_N[None, :])[apart].all()


@given(world=ladder_and_vectors(rows=8), data=st.data())
def test_the_tail_bound_never_prunes_wrongly(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    query_D, item_ND = vector_BD[0].astype(np.float64), vector_BD[1:].astype(np.float64)
    tails = np.linalg.norm(query_D[width:]) * np.linalg.norm(item_ND[:, width:], axis=1)
    bound = item_ND[:, :width] @ query_D[:width] + tails
    full = item_ND @ query_D
    assert (full <= bound + 1e-9 * (1 + np.abs(bound))).all()


@given(world=ladder_queries_and_vectors(), data=st.data())
def test_a_width_has_no_gradient_beyond_itself(world, data):
    """With norm full the tail of an item, or of a tied query, is part of what its prefix is divided by."""
    ladder, *both = world
    place = data.draw(st.integers(0, len(ladder) - 1))
    query, item = (torch.from_numpy(vector.astype(np.float64)).requires_grad_() for vector in both)
    query_Bw, item_Nw = (list(by_width)[place] for by_width in scaled_by_width(query, item, ladder))
    (query_Bw @ item_Nw.T).sum().backward()
    assert query.grad is not None
    assert item.grad is not None
    width = ladder.widths[place]
    if ladder.norm == "prefix":
        assert (item.grad[:, width:] == 0).all()
    if ladder.head == "per_width":
        others = torch.ones(ladder.query_size, dtype=torch.bool)
        others[ladder.query_blocks[place]] = False
        assert (query.grad[:, others] == 0).all()
    elif ladder.norm == "prefix":
        assert (query.grad[:, width:] == 0).all()
