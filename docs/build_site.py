"""Build the documentation site, strictly: ``build/docs`` from ``docs/``, then ``build/site`` from that.

Pages link to files of the repository that are no pages, such as recorded figures. Those files come along, so that a
link leads somewhere wherever the site lies. The gRPC reference is made of the comments in ``protos/``.

    python docs/build_site.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGED = ROOT / "build" / "docs"
PROTOS = sorted((ROOT / "protos").rglob("*.proto"))

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#:]+)(#[^)]*)?\)")
_OPENING = re.compile(r"^(service|message|enum) (\w+) \{")


def main() -> None:
    """Stage, build; exit with Zensical's status where it finds fault."""
    stage()
    words = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    raise SystemExit(subprocess.run(words, cwd=ROOT, check=False).returncode)


def stage() -> None:
    """Write what the site is built from."""
    shutil.rmtree(STAGED, ignore_errors=True)
    shutil.copytree(ROOT / "docs", STAGED, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in sorted(STAGED.rglob("*.md")):
        source = ROOT / "docs" / page.relative_to(STAGED)
        page.write_text(_LINK.sub(partial(_led_inside, page=source), page.read_text()))
    (STAGED / "reference" / "grpc.md").write_text(
        grpc_page({path.relative_to(ROOT).as_posix(): path.read_text() for path in PROTOS})
    )


def _led_inside(link: re.Match[str], *, page: Path) -> str:
    """Return a link as the site needs it: to a copy where it left ``docs/``, to the folder's name where that is all."""
    target = (page.parent / link["target"]).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.exists():
        return link[0]
    inside = target.relative_to(ROOT)
    if target.is_dir():
        return f"{link['text']} (in the repository's `{inside}`)"
    copy = STAGED / "files" / inside.with_name(f"{inside.name}.txt")
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(target, copy)
    up = "../" * len(page.relative_to(ROOT / "docs").parent.parts)
    return f"[{link['text']}]({up}files/{copy.relative_to(STAGED / 'files')})"


def grpc_page(protos: Mapping[str, str]) -> str:
    """Return a Markdown page of protos, by path: what is said of each service and message, and the definitions."""
    page = [
        "# gRPC",
        "Python programs use `serving.client.Client`; other languages generate stubs from these files, or ask a running"
        " server by reflection.",
    ]
    for path, proto in protos.items():
        page.append(f"## `{path}`")
        for kind, name, said, definition in _definitions(proto.splitlines()):
            page += [f"### {name}", said, f'```proto title="{kind}"\n{definition}\n```']
    return "\n\n".join(page) + "\n"


def _definitions(lines: list[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield kind, name, comment and text of each top-level definition."""
    for place, line in enumerate(lines):
        if opening := _OPENING.match(line):
            first = place
            while first and lines[first - 1].startswith("//"):
                first -= 1
            last = place if line.endswith("}") else lines.index("}", place)
            said = "\n".join(comment.removeprefix("//").removeprefix(" ") for comment in lines[first:place])
            yield opening[1], opening[2], said, "\n".join(lines[place : last + 1])


if __name__ == "__main__":
    main()
