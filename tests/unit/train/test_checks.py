"""What is checked before a run begins."""

from __future__ import annotations

import pytest

from recsys.errors import ConfigError
from recsys.train.checks import check_divides


def test_a_batch_that_processes_cannot_share_is_refused_with_one_that_they_can():
    with pytest.raises(ConfigError, match=r"^batch_size: got 33 rows per step for 2 processes, .* such as 32$"):
        check_divides(33, 2)
    check_divides(32, 2)
