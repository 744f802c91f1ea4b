"""Generate the Python stubs in ``serving/v1`` from the protos beside this file, or check that they are up to date.

python protos/generate.py            # write them
python protos/generate.py --check    # compare, write nothing; exit status 1 when they differ
"""

from __future__ import annotations

import argparse
import difflib
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent


def generate(out: Path) -> list[Path]:
    """Write messages, service and their type stubs under ``out``; return their paths relative to it.

    The proto's path mirrors the package's, so the imports in generated code are right as they are.
    """
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    plugins = Path(sysconfig.get_path("scripts"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--grpc_python_out={out}",
            f"--mypy_grpc_out=quiet:{out}",
            *sources,
        ]
    )
    if status != 0:
        sys.exit(f"protoc failed with status {status}")
    return sorted(path.relative_to(out) for path in out.glob("serving/v1/*_pb2*"))


def difference() -> str:
    """Return a unified diff from the committed stubs to freshly generated ones; empty when they agree."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path: (Path(folder) / path).read_text() for path in generate(Path(folder))}
    committed = {path.relative_to(ROOT): path.read_text() for path in ROOT.glob("serving/v1/*_pb2*")}
    lines: list[str] = []
    for path in sorted(fresh.keys() | committed.keys()):
        old, new = committed.get(path, ""), fresh.get(path, "")
        lines += difflib.unified_diff(old.splitlines(), new.splitlines(), f"committed/{path}", f"fresh/{path}", n=1)
    return "\n".join(lines)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed stubs and write nothing")
    if not parser.parse_args().check:
        generate(ROOT)
    elif found := difference():
        sys.exit(f"{found}\nserving/v1 is out of date: run `make protos` and commit the result")


if __name__ == "__main__":
    main()
