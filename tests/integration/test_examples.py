"""The examples run, and show what they say they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_own_module_learns_at_every_width():
    said = run("own_module.py")
    shares = [int(share) for share in re.findall(r"(\d+)% of the best 10", said)]
    assert re.findall(r"width +(\d+):", said) == ["4", "8", "32"]
    assert min(shares) > 50


def test_the_notebook_runs_from_interactions_to_recommendations(tmp_path):
    pytest.importorskip("marimo")
    said = run("widths_notebook.py", NOTEBOOK_WORK=str(tmp_path), NOTEBOOK_QUICK="1")
    widths = re.findall(r"^width (\d+)$", said, flags=re.MULTILINE)
    assert widths == ["16", "32", "64", "128"]
    *_, full = said.split("width 128\n")
    titles = full.strip().splitlines()
    assert len(titles) == 10
    assert all(title.strip().startswith("✓") for title in titles)
    assert len(list((tmp_path / "bundles").glob("*/ladder.json"))) == 1
