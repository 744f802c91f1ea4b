"""What the documentation tells people to type works: its shell and Python blocks, run in order in an empty folder."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDES = ("widths", "budget", "upgrade", "monitor")
PAGES = ("ladder", "multi-node", "catalogue")
"""Pages that go on from the tutorial, as the guides do."""
RUN = {"sh", "python"}
# One page is many commands; a busy machine may take several minutes for it.
pytestmark = pytest.mark.timeout(1500)
SHOWN = {"console", "py", "text", "toml", "proto"}
_BLOCK = re.compile(r"^```(?P<language>[^\n]*)\n(?P<body>.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(block["language"], block["body"]) for block in _BLOCK.finditer(page.read_text())]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def follow(page: Path, folder: Path) -> str:
    """Run a page as one shell session, on ports of its own; return what it said."""
    script = "set -emu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
    for language, body in blocks(page):
        if language == "python":
            script += f"{sys.executable} - <<'END_OF_BLOCK'\n{body}END_OF_BLOCK\n"
        elif language == "sh":
            script += body
    for port in ("50051", "9090"):
        script = script.replace(port, free_port())
    if "recsys recommend" in script:
        port = re.search(r"--port (\d+)", script)[1]
        script = script.replace("recsys recommend", f"recsys recommend --address 127.0.0.1:{port}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    finished = subprocess.run(
        ["bash", "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=1400, env=os.environ | {"PATH": path, "NO_COLOR": "1", "COLUMNS": "200"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which somebody has followed the tutorial; what was said is in a file beside it."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "said.txt").write_text(follow(DOCS / "tutorial.md", folder))
    return folder


def test_what_is_run_stands_on_pages_that_are_followed():
    pages = {DOCS / f"{name}.md" for name in ("tutorial", "loss", "command-line", *PAGES)}
    followed = {*pages, *(DOCS / "guides").glob("*.md")}
    for page in DOCS.rglob("*.md"):
        known = RUN | SHOWN if page in followed else SHOWN
        for language, body in blocks(page):
            assert language in known, f"{page.name}: {language!r}: {body[:60]}"


def test_the_tutorial_leads_to_answers(work):
    said = (work / "said.txt").read_text()
    assert "943 users, 1,682 items" in said
    assert "{'min_overlap': 0.9}" in said
    assert "width 16 by " in said
    assert (work / "work" / "report.html").stat().st_size > 100_000


def test_the_loss_alone_learns(tmp_path):
    first, *_, full = re.findall(r"\d\.\d+", follow(DOCS / "loss.md", tmp_path))
    assert 0 < float(full) <= float(first) < 7


@pytest.mark.deep
def test_a_log_of_ones_own_becomes_a_dataset(work):
    follow(DOCS / "guides" / "own-data.md", work)
    assert "work/from-recipe: 100,000 rows read" in follow(DOCS / "command-line.md", work)


@pytest.mark.deep
@pytest.mark.parametrize("name", GUIDES)
def test_guides_go_on_from_there(work, name):
    follow(DOCS / "guides" / f"{name}.md", work)


@pytest.mark.deep
@pytest.mark.parametrize("name", PAGES)
def test_pages_with_commands_go_on_from_there(work, name):
    follow(DOCS / f"{name}.md", work)


def test_every_guide_is_followed():
    assert {path.stem for path in (DOCS / "guides").glob("*.md")} == {"own-data", *GUIDES}
