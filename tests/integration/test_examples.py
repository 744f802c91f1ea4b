"""The examples run, and show what they say they show."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> str:
    words = [sys.executable, EXAMPLES / name]
    finished = subprocess.run(words, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_own_module_learns_at_every_width():
    said = run("own_module.py")
    shares = [int(share) for share in re.findall(r"(\d+)% of the best 10", said)]
    assert re.findall(r"width +(\d+):", said) == ["4", "8", "32"]
    assert min(shares) > 50
