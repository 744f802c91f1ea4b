"""Load FAISS so that it multiplies matrices with the instructions that this processor has.

The wheels of faiss-cpu bring an OpenBLAS of 2021, which knows processors by their numbers: one that is newer it takes
for one of 2004, without AVX. Training cells, and exact search for many queries at once, then take several times as
long. So the kind is named to it, by what the processor says that it can do, unless ``OPENBLAS_CORETYPE`` names one
already. Where it knows the processor this names what it would find itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np  # noqa: F401  its own OpenBLAS is newer, and reads the same variable when it is loaded

_VARIABLE = "OPENBLAS_CORETYPE"
_CPUINFO = Path("/proc/cpuinfo")
_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_AVX2 = {"avx2", "fma"}


def load_faiss() -> None:
    """Import FAISS, with its OpenBLAS told what to use; the environment stays as it is."""
    kind = None if _VARIABLE in os.environ or not _CPUINFO.is_file() else kind_of(_CPUINFO.read_text())
    if kind is not None:
        os.environ[_VARIABLE] = kind
    try:
        import faiss  # noqa: F401
    finally:
        if kind is not None:
            del os.environ[_VARIABLE]


def kind_of(cpuinfo: str) -> str | None:
    """Return OpenBLAS's name for a processor, from the text of Linux's ``/proc/cpuinfo``; None to let it find out."""
    lines = [line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines()]
    said = {name.strip(): text.strip() for name, _, text in lines}
    vendor, flags = said.get("vendor_id"), set(said.get("flags", "").split())
    if vendor == "GenuineIntel" and flags >= _AVX512:
        return "SkylakeX"
    if flags >= _AVX2:
        return {"GenuineIntel": "Haswell", "AuthenticAMD": "Zen"}.get(vendor or "")
    return None
