"""The energy profile: what vectors that meet it pay, and what it pulls at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_batches import problems
from torch.nn.functional import normalize

from recsys.errors import ConfigError
from recsys.model.losses.energy import energy_penalty, energy_profile, energy_widths
from recsys.widths import WidthLadder


@given(problem=problems(), decay=st.floats(1, 9))
def test_vectors_that_meet_the_profile_pay_nothing(problem, decay):
    widths, item_SD = problem.widths, problem.vectors["item_SD"]
    profile = energy_profile(widths, decay=decay)
    # Each block holds exactly what the profile asks beyond the block before, whatever its direction.
    block_energies = np.diff([0.0, *profile])
    vector = torch.cat(
        [
            normalize(item_SD[:, block], dim=1) * (energy + 1e-12) ** 0.5
            for block, energy in zip(widths.blocks, block_energies, strict=True)
        ],
        dim=1,
    )
    assert energy_penalty(vector, widths, profile) < 1e-20
    front_loaded = vector * torch.linspace(2, 1, widths.full, dtype=torch.float64)
    assert energy_penalty(front_loaded, widths, profile) <= 1e-20
    if len(widths) > 1:
        back_loaded = torch.zeros_like(vector)
        back_loaded[:, -1] = 1
        assert energy_penalty(back_loaded, widths, profile) > 0


def test_what_a_narrow_prefix_lacks_does_not_drain_the_last_block():
    widths = WidthLadder([2, 4, 8])
    vector = torch.tensor([[0.1, 0.1, 3.0, 3.0, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    energy_penalty(vector, widths, energy_profile(widths, decay=2)).backward()
    assert (vector.grad[:, :2] < 0).all()
    assert (vector.grad[:, 2:4] > 0).all()
    assert (vector.grad[:, 4:] == 0).all()


def test_a_steeper_profile_asks_for_more():
    widths = WidthLadder([2, 4, 8])
    assert energy_profile(widths, decay=1) == (0.25, 0.5, 1.0)
    assert energy_profile(widths, decay=2) == pytest.approx((1 - 0.75**2, 0.75, 1.0))


def test_the_profile_asks_at_the_ends_of_parts_too():
    widths = WidthLadder([4, 16])
    assert energy_widths(widths, num_parts=1) == WidthLadder([4, 16])
    assert energy_widths(widths, num_parts=8) == WidthLadder([2, 4, 6, 8, 10, 12, 14, 16])
    with pytest.raises(ConfigError, match="energy_parts: got 3, expected a divisor of the full width 16"):
        energy_widths(widths, num_parts=3)


def test_parts_ask_for_energy_first_within_a_block():
    widths = WidthLadder([4, 8])
    vector = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.1, 0.1, 0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    penalty = []
    for parts in (1, 4):
        asked = energy_widths(widths, num_parts=parts)
        penalty.append(energy_penalty(vector, asked, energy_profile(asked, decay=2)))
    assert penalty[0] == 0 < penalty[1]
