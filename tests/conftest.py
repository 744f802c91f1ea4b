"""Shared by all tests: Hypothesis profiles, devices, data."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    import torch

# What is first imported while the hook is at work is compiled anew by every process, so this comes before; and kernels
# are compiled already, and so not to be wrapped.
BEFORE = ["polars", "torchrec", "recsys.index.kernels", "recsys.model.losses.kernels"]
# In these modules the shapes of arguments and results are checked on every call. Those that refuse wrong shapes with
# messages of their own (widths, exact search, engines) are left to speak for themselves.
CHECKED = [
    "recsys.evaluate.metrics", "recsys.index.calibrate", "recsys.model.exported", "recsys.model.losses.matryoshka",
    "recsys.model.two_tower",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Import what takes long and what is to be checked, in the processes that run tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As where a shell started this in the background; whatever tests start would ignore Ctrl-C as well.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("numprocesses", default=None) and not hasattr(config, "workerinput"):
        return  # this one hands them out to others
    import torch

    if not torch.cuda.is_available():
        # Before anybody imports Triton: its kernels then run on a CPU, by its interpreter.
        os.environ["TRITON_INTERPRET"] = "1"
    for name in [*BEFORE, *(["recsys.model.losses.triton_kernels"] if find_spec("triton") else [])]:
        importlib.import_module(name)
    with install_import_hook(["recsys.model", "recsys.evaluate.metrics", "recsys.index.calibrate"], "shapes.check"):
        for name in CHECKED:
            importlib.import_module(name)
    # TorchRec's pipelines call it with symbols, which have no shapes; what it returns is checked where it comes from.
    two_tower = sys.modules["recsys.model.two_tower"].TwoTower
    two_tower.forward = inspect.unwrap(two_tower.forward)


settings.register_profile("dev", max_examples=40, deadline=None)
settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "deep", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def datasets() -> Path:
    folder = os.environ.get("RECSYS_DATASETS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RECSYS_DATASETS names no folder of datasets")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of simulated users; read only."""
    from recsys.testing import small_dataset

    return small_dataset(tmp_path_factory.mktemp("simulated") / "dataset", num_users=200, num_items=60, seed=3)
