"""A server's settings are checked when made."""

from pathlib import Path

import pytest

from recsys.errors import ConfigError
from serving.settings import Limits, ServerSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("workers", 0),
        ("max_waiting", -1),
        ("max_unread", 3),
        ("deadline_margin_ms", -0.1),
        ("deadline_margin_ms", float("nan")),
        ("drain_s", -1.0),
        ("grace_s", float("inf")),
    ],
)
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: got {value}"):
        ServerSettings(bundles=Path(), **{name: value})


@pytest.mark.parametrize(
    "name", ["max_k", "max_history", "max_exclusions", "max_batch", "max_filter_items", "max_filter_values"]
)
def test_limits_must_let_something_through(name):
    with pytest.raises(ConfigError, match=rf"^limits\.{name}: got 0, expected at least 1"):
        Limits(**{name: 0})
