"""The documentation site: it builds without complaint, no link leads nowhere, and nothing is loaded from elsewhere."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "build" / "site"


class Links(HTMLParser):
    """Collects what a page names, links to and loads."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        self.ids |= {of[name] for name in ("id", "name") if of.get(name)}
        if tag == "a" and of.get("href"):
            self.links.add(of["href"])
        if of.get("src"):
            self.loads.add(of["src"])
        if tag == "link" and of.get("href") and of.get("rel") != "canonical":
            self.loads.add(of["href"])


@pytest.fixture(scope="module")
def pages():
    built = subprocess.run(
        [sys.executable, ROOT / "docs" / "build_site.py"], capture_output=True, text=True, timeout=280, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    # The page for what is not found is served from anywhere, so its links begin at the site's root.
    return {path: Links(path) for path in SITE.rglob("*.html") if path.name != "404.html"}


def test_every_page_is_there(pages):
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert written | {Path("reference/grpc.html")} == {path.relative_to(SITE) for path in pages}


def test_no_link_leads_nowhere(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links | page.loads:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unquote(link).partition("#")
            found = (path.parent / target).resolve() if target else path
            found = found / "index.html" if found.is_dir() else found
            if not found.exists() or (anchor and found in pages and anchor not in pages[found].ids):
                broken.append(f"{path.relative_to(SITE)}: {link}")
    assert not broken


def test_nothing_is_loaded_from_elsewhere(pages):
    assert not [load for page in pages.values() for load in page.loads if re.match(r"(https?:)?//", load)]


def test_the_python_reference_is_made_from_docstrings(pages):
    page = pages[SITE / "reference" / "python.html"]
    for name in ("serving.client.Client.recommend", "recsys.widths.truncate", "recsys.config.ModelConfig"):
        assert name in page.ids


def test_the_grpc_reference_has_every_definition():
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    build_site = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_site)
    protos = {path.name: path.read_text() for path in build_site.PROTOS}
    page = build_site.grpc_page(protos)
    names = [
        name
        for proto in protos.values()
        for name in re.findall(r"^(?:service|message|enum) (\w+)", proto, flags=re.MULTILINE)
    ]
    assert len(names) > 20
    assert re.findall(r"^### (\w+)", page, flags=re.MULTILINE) == names
    assert "### Budget\n\nWhat a call may spend: at most one field." in page
    assert "  optional double time_ms = 1;" in page
