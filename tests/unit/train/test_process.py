"""What a process reads in its environment of how torchrun started it."""

from __future__ import annotations

import pytest

from recsys.train.process import may_hang_when_restarted


@pytest.mark.parametrize(
    ("num_agents", "restarts", "shared", "expected"),
    [("2", "1", "True", True), ("2", "1", "False", False), ("2", "0", "True", False), ("1", "1", "True", False)],
)
def test_agents_that_share_a_store_over_restarts_are_noticed(monkeypatch, num_agents, restarts, shared, expected):
    assert not may_hang_when_restarted()
    monkeypatch.setenv("GROUP_WORLD_SIZE", num_agents)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    assert may_hang_when_restarted() is expected
