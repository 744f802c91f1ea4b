import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.index.blas import kind_of

AVX512 = "avx512f avx512bw avx512dq avx512vl avx512cd"
CPUINFO = Path("/proc/cpuinfo")
LOADED = """
import ctypes, os, sys
import recsys.index
with open("/proc/self/maps") as maps:
    paths = {line.split()[-1] for line in maps if "faiss" in line and "openblas" in line}
for path in paths:
    name = ctypes.CDLL(path).openblas_get_corename
    name.restype = ctypes.c_char_p
    print(name().decode(), os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize(
    ("vendor", "flags", "kind"),
    [
        ("GenuineIntel", f"fpu sse2 avx avx2 fma {AVX512} amx_tile", "SkylakeX"),
        ("GenuineIntel", "fpu sse2 avx avx2 fma avx512f", "Haswell"),
        ("GenuineIntel", "fpu sse2 avx", None),
        ("AuthenticAMD", f"fpu sse2 avx avx2 fma {AVX512}", "Zen"),
        ("Another", "avx2 fma", None),
    ],
)
def test_a_processor_is_known_by_what_it_can_do(vendor, flags, kind):
    core = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel\t\t: 207\nflags\t\t: {flags}\n"
    assert kind_of(core + "\n" + core) == kind


def test_processors_of_other_makes_are_left_alone():
    assert kind_of("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n\n") is None
    assert kind_of("") is None


@pytest.mark.skipif(
    not CPUINFO.is_file() or kind_of(CPUINFO.read_text()) is None, reason="no processor whose kind is named to OpenBLAS"
)
@pytest.mark.parametrize("given", [None, "Prescott"])
def test_faiss_multiplies_with_what_there_is_unless_told_otherwise(given):
    wanted = given or kind_of(CPUINFO.read_text())
    environment = {name: text for name, text in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {} if given is None else {"OPENBLAS_CORETYPE": given}
    said = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    if not said.stdout:
        pytest.skip("this FAISS was built with another BLAS")
    assert said.stdout.split() == [wanted, str(given)]
