"""The compiled passes, in a process that compiles them and in one that finds them on disk."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib

import torch

from recsys.model import MatryoshkaSoftmax

torch.set_num_threads(1)
for dtype in (torch.float32, torch.float64):
    random = torch.Generator().manual_seed(1)
    vectors = [torch.randn(256, 64, generator=random, dtype=dtype).requires_grad_() for _ in range(3)]
    items = [torch.randint(5000, (256,), generator=random) for _ in range(2)]
    loss = MatryoshkaSoftmax((16, 32, 64), temperature=0.07)(*vectors, item_B=items[0], negative_N=items[1])[0]
    loss.backward()
    print(loss.item().hex(), *(hashlib.sha256(one.grad.numpy().tobytes()).hexdigest() for one in vectors))
"""


@pytest.mark.deep
def test_a_process_that_compiles_learns_the_same_bits_as_one_that_does_not(tmp_path):
    """Else a run and its continuation on a new machine would differ: the first of them compiles."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True, timeout=280
        ).stdout
        for _ in range(2)
    ]
    assert list(tmp_path.rglob("*.nbc")), "compiled code is kept"
    assert said[0] == said[1]
