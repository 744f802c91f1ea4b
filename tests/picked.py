"""Ids as answers have them."""

import numpy as np

from recsys.texts import PickedTexts, Texts


def picked(ids: list[str], *, num_beside: int = 0) -> PickedTexts:
    """Return all of some ids, the last ones from a column beside."""
    num = len(ids) - num_beside
    return Texts.of(ids[:num]).pick(np.arange(len(ids)), beside=Texts.of(ids[num:]))
