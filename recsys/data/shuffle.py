"""Random orders that nobody has to hold: any part of one is computed when it is asked for.

A permutation of n places is a cipher of numbers below n: a Feistel network over as many bits as n needs, walked until
it lands below n (Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, CT-RSA 2002). Its rounds mix with the
last step of SplitMix64 (Steele et al., OOPSLA 2014), keyed by a seeded generator: it has to look random, not to keep
secrets.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

_NUM_ROUNDS = 8
"""Even, so that halves of different sizes end where they began."""


class Shuffle:
    """A random order of the numbers 0 to ``length`` - 1.

    Args:
        length: how many.
        random: its next draws are the order.
    """

    def __init__(self, length: int, random: np.random.Generator) -> None:
        bits = max(2, (length - 1).bit_length())
        self._length, self._low_bits = length, bits // 2
        self._high_bits = bits - self._low_bits
        self._keys = random.integers(2**64, size=_NUM_ROUNDS, dtype=np.uint64)

    def __len__(self) -> int:
        return self._length

    def at(self, place: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " some"]:
        """Return the numbers at these places of the order."""
        number = self._walk(place.astype(np.uint64))
        while len(outside := np.flatnonzero(number >= self._length)):
            number[outside] = self._walk(number[outside])
        found: Int64[np.ndarray, " some"] = number.astype(np.int64)
        return found

    def _walk(self, number: np.ndarray) -> np.ndarray:
        low_bits, high_bits = np.uint64(self._low_bits), np.uint64(self._high_bits)
        one = np.uint64(1)
        high, low = number >> low_bits, number & ((one << low_bits) - one)
        for key in self._keys:
            high, low = low, high ^ (_mixed(low + key) & ((one << high_bits) - one))
            low_bits, high_bits = high_bits, low_bits
        walked: np.ndarray = (high << low_bits) | low
        return walked


def _mixed(number: np.ndarray) -> np.ndarray:
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = number ^ (number >> np.uint64(31))
    return mixed
