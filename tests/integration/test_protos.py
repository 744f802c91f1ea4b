"""The committed stubs are what the protos generate, and the protos pass lint."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def generate(*arguments: str, script: Path = ROOT / "protos" / "generate.py") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=120)


def test_the_committed_stubs_are_up_to_date():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_a_changed_proto_is_noticed_and_generating_again_settles_it(tmp_path):
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copytree(ROOT / "serving" / "v1", tmp_path / "serving" / "v1")
    proto = tmp_path / "protos" / "serving" / "v1" / "candidates.proto"
    proto.write_text(
        proto.read_text().replace("message DescribeRequest {}", "message DescribeRequest { bool all = 1; }")
    )
    script = tmp_path / "protos" / "generate.py"
    stale = generate("--check", script=script)
    assert stale.returncode == 1
    assert "candidates_pb2.py" in stale.stderr
    assert "make protos" in stale.stderr
    assert generate(script=script).returncode == 0
    assert generate("--check", script=script).returncode == 0


def test_the_protos_pass_lint():
    buf = Path(sys.executable).with_name("buf")
    done = subprocess.run([str(buf), "lint", "protos"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
