"""What must hold of every prefix of every vector: the laws that serving a narrower width relies on."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.model.losses.blocks import cosines_by_width
from recsys.testing import vectors, width_ladders
from recsys.widths import truncate


@st.composite
def ladder_and_vectors(draw, *, rows=6):
    ladder = draw(width_ladders())
    return ladder, draw(vectors(ladder, rows=rows))


def two_widths(data, ladder):
    return sorted(data.draw(st.tuples(st.sampled_from(ladder.widths), st.sampled_from(ladder.widths))))


@given(world=ladder_and_vectors(), data=st.data())
def test_truncation_composes_and_is_idempotent(world, data):
    ladder, vector_BD = world
    narrow, wide = two_widths(data, ladder)
    once = truncate(vector_BD, narrow, ladder)
    np.testing.assert_allclose(truncate(truncate(vector_BD, wide, ladder), narrow, ladder), once, atol=1e-6)
    np.testing.assert_allclose(truncate(once, narrow, ladder), once, atol=1e-6)


@given(world=ladder_and_vectors(), data=st.data())
def test_rows_have_unit_length_and_keep_direction(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    cut = truncate(vector_BD, width, ladder)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    prefix = vector_BD[:, :width].astype(np.float64)
    np.testing.assert_allclose(cut, prefix / np.linalg.norm(prefix, axis=1, keepdims=True), atol=1e-5)


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


@given(world=ladder_and_vectors(), data=st.data())
def test_truncating_a_batch_is_truncating_each_row(world, data):
    ladder, vector_BD = world
    width = data.draw(st.sampled_from(ladder.widths))
    one_by_one = np.stack([truncate(row, width, ladder) for row in vector_BD])
    np.testing.assert_allclose(truncate(vector_BD, width, ladder), one_by_one, atol=1e-6)


@given(world=ladder_and_vectors(rows=8))
def test_blocks_add_up_to_every_prefix_cosine(world):
    ladder, vector_BD = world
    query_BD, item_ND = (torch.from_numpy(half.astype(np.float64)) for half in (vector_BD[:3], vector_BD[3:]))
    for width, cosine_BN in zip(ladder, cosines_by_width(query_BD, item_ND, ladder), strict=True):
        expected = truncate(query_BD, width, ladder) @ truncate(item_ND, width, ladder).T
        torch.testing.assert_close(cosine_BN, expected, atol=1e-9, rtol=0)


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


@given(world=ladder_and_vectors(rows=5), data=st.data())
def test_a_width_has_no_gradient_beyond_itself(world, data):
    ladder, vector_BD = world
    place = data.draw(st.integers(0, len(ladder) - 1))
    width = ladder.widths[place]
    vector = torch.from_numpy(vector_BD.astype(np.float64)).requires_grad_()
    list(cosines_by_width(vector[:2], vector[2:], ladder))[place].sum().backward()
    assert vector.grad is not None
    assert (vector.grad[:, width:] == 0).all()
