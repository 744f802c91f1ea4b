"""What a GPU makes of training and of exact search: the loss beside its roofline, whole steps, ml-1m, faiss-gpu.

Every part says what it was measured with, or why it was left out: no GPU, FBGEMM or FAISS built without CUDA, no
datasets. `make gpu-check` runs the tests of devices before it.

The loss, six widths to 256, 4,096 rows and as many negatives, is timed beside a loop over widths, in turns, in each of
torch's three precisions of float32 products, with the most memory that each allocates. Its roofline counts what the
mathematics needs, however it is computed: products are ``B x N x D`` multiplications and additions forward, and as
many for each side's gradient, ``6 B N D`` operations in all; vectors and their gradients are read and written once,
``4 x 2 (B + N) D`` bytes. The kernels compute products again going backward, for each side, ``10 B N D``, so that even
a perfect one would have three fifths of that roofline; ``share_of_kernel_roofline`` counts those. Exponentials are
left out of both. Ceilings are measured here, in the same precision: operations by a product of square matrices, bytes
by a copy.

A step is the trainer's on a simulated log (`benchmarks.training` describes it). ml-1m is trained with the settings of
`benchmarks.quality` and its test read once. Search is of simulated vectors, whose coordinates fade as compacted ones
do: each width's exact scan on the GPU (FAISS) with its best candidates scored at full width, by batch size, beside the
overlap with the full scan.

Shapes: ``item_ND`` (items, full width), ``query_QD``.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._configs import load_benchmark
from benchmarks._experiment import open_dataset, trained
from benchmarks._harness import finish, parser
from benchmarks._ways import Way, loss_ways, step_ways, take_turns
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.evaluate.protocol import evaluate_vectors
from recsys.widths import WidthLadder, truncate

_K, _DEPTH = 100, 400
Figures = dict[str, Any]


class SkippedError(Exception):
    """A part that cannot be measured here, and why."""


def main() -> None:
    """Measure what there is to measure."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu shows that it works (cuda)")
    arguments.add_argument("--turns", type=int, default=15, help="of each way (15; 3 if --quick)")
    given = arguments.parse_args()
    if given.record and given.device == "cpu":
        arguments.error("--record: got it with --device cpu, expected a GPU")
    device, turns = torch.device(given.device), 3 if given.quick else given.turns
    parts: dict[str, Callable[[], Figures]] = {
        "loss": lambda: _loss(device, turns=turns, quick=given.quick),
        "step": lambda: _step(device, turns=turns, quick=given.quick),
        "ml-1m": lambda: _movielens(device, quick=given.quick),
        "search": lambda: _search(device, turns=turns, quick=given.quick),
    }
    figures: Figures = {"device": _name(device), "skipped": {}}
    if device.type == "cuda" and not torch.cuda.is_available():
        figures["skipped"] = dict.fromkeys(parts, "torch finds no CUDA device")
        parts = {}
    for name, measure in parts.items():
        try:
            figures[name] = measure()
        except SkippedError as skipped:
            figures["skipped"][name] = str(skipped)
    _print(figures)
    finish("gpu", figures | {"quick": given.quick}, record=given.record)


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _medians(ways: dict[str, Way], device: torch.device, turns: int) -> dict[str, float]:
    took = take_turns(ways, num_turns=turns, seed=1, settle=lambda: _settle(device))
    return {name: float(np.median(one["wall"])) for name, one in took.items()}


def _peak_bytes(way: Way, device: torch.device) -> int | None:
    """Return what a way allocates at most beyond what is there; None where nobody counts that."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    way()
    _settle(device)
    return torch.cuda.max_memory_allocated() - before


def _loss(device: torch.device, *, turns: int, quick: bool) -> Figures:
    size, widths = (256, (8, 16, 32)) if quick else (4096, (8, 16, 32, 64, 128, 256))
    found: Figures = {"batch": size, "negatives": size, "widths": list(widths)}
    # Triton comes with torch's builds for CUDA; without it the loss is the one of torch operations.
    on_cuda = "Triton" if importlib.util.find_spec("triton") else "torch operations"
    found["kernels"] = on_cuda if device.type == "cuda" else "compiled loops"
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            found[precision] = _loss_in_precision(size, widths, device, turns=turns)
    finally:
        torch.set_float32_matmul_precision(before)
    return found


def _loss_in_precision(size: int, widths: tuple[int, ...], device: torch.device, *, turns: int) -> Figures:
    ways = loss_ways(size, widths, device=device)
    seconds = _medians(ways, device, turns)
    ceilings = _ceilings(device, side=8192 if device.type == "cuda" else 512, turns=turns)
    pairs = size * size * widths[-1]
    bytes_s = 4 * 2 * 2 * size * widths[-1] / ceilings["bytes_per_s"]
    bounds = {times: max(times * pairs / ceilings["operations_per_s"], bytes_s) for times in (6, 10)}
    return {
        "seconds": seconds,
        "peak_bytes": {name: _peak_bytes(way, device) for name, way in ways.items()},
        "ceilings": ceilings,
        "share_of_roofline": bounds[6] / seconds["loss, all widths"],
        "share_of_kernel_roofline": bounds[10] / seconds["loss, all widths"],
        "vs_naive_speedup": seconds["loss, loop"] / seconds["loss, all widths"],
        "all_widths_vs_one": seconds["loss, all widths"] / seconds["loss, full width"],
    }


def _ceilings(device: torch.device, *, side: int, turns: int) -> dict[str, float]:
    """Return operations and bytes a second, as a product of square matrices and a copy have them."""
    one, other, out = (torch.randn(side, side, device=device) for _ in range(3))
    # Larger than any cache.
    source = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    ways: dict[str, Way] = {
        "product": lambda: torch.mm(one, other, out=out),
        "copy": lambda: target.copy_(source),
    }
    seconds = _medians(ways, device, turns)
    return {
        "operations_per_s": 2 * side**3 / seconds["product"],
        "bytes_per_s": 2 * source.nbytes / seconds["copy"],
    }


def _require_fbgemm(device: torch.device) -> None:
    """Refuse a GPU for which tables have no kernels."""
    operator = "fbgemm::asynchronous_complete_cumsum"  # which every lookup starts with
    if device.type == "cuda" and not torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CUDA"):
        raise SkippedError("this build of FBGEMM has no kernels for CUDA: fbgemm-gpu is not installed")


def _step(device: torch.device, *, turns: int, quick: bool) -> Figures:
    _require_fbgemm(device)
    size, widths = (256, (8, 16, 32)) if quick else (4096, (8, 16, 32, 64, 128, 256))
    config = TrainConfig(
        model=ModelConfig(widths=widths),
        loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=size),
        batch_size=size,
        epochs=1_000,
        device=device.type,
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ways = step_ways(Path(folder), config, stack, scale=1 if quick else 50, twins=False)
        seconds = _medians(ways, device, turns)
        return {
            "seconds": seconds,
            "peak_bytes": {name: _peak_bytes(way, device) for name, way in ways.items()},
            "examples_per_s": size / seconds["step, all widths"],
            "all_widths_vs_one": seconds["step, all widths"] / seconds["step, full width"],
        }


def _movielens(device: torch.device, *, quick: bool) -> Figures:
    """Train ml-1m end to end and read its test."""
    _require_fbgemm(device)
    if quick:
        raise SkippedError("left out of quick runs")
    if "RECSYS_DATASETS" not in os.environ:
        raise SkippedError("RECSYS_DATASETS names no folder of datasets")
    benchmark = load_benchmark("ml-1m")
    config = replace(benchmark.train, device=device.type)
    with tempfile.TemporaryDirectory() as folder:
        dataset = open_dataset(Path(folder), benchmark.recipe, benchmark.protocol)
        run = trained(Path(folder), dataset, config)
        queries = dataset.queries("test")
        *_, full = evaluate_vectors(queries, *run.encode(dataset, queries), config.model.ladder).values()
        metrics = {metric: full.mean(metric) for metric in ("recall@10", "ndcg@10")}
        return {"seconds": run.seconds, "epochs": len(run.curve), **metrics}


def _search(device: torch.device, *, turns: int, quick: bool) -> Figures:
    num_items, widths = (2_000, WidthLadder((8, 16, 32))) if quick else (1_000_000, WidthLadder((32, 64, 128, 256)))
    if device.type == "cuda" and (not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus()):
        raise SkippedError("this build of FAISS has no GPU in it: faiss-gpu is not installed")
    random = np.random.default_rng(1)
    fading = (np.arange(1, widths.full + 1) ** -0.5).astype(np.float32)
    item_ND, query_QD = (
        np.ascontiguousarray(
            truncate(random.standard_normal((num, widths.full), dtype=np.float32) * fading, widths.full, widths)
        )
        for num in (num_items, 256)
    )
    item_on = torch.from_numpy(item_ND).to(device)
    found: Figures = {"items": num_items, "depth": _DEPTH, "rungs": {}}
    exact_QK = None
    for width in reversed(widths.widths):
        index = _flat(np.ascontiguousarray(truncate(item_ND, width, widths)), device)
        rows_QK = _answers(index, item_on, query_QD, width, widths)
        exact_QK = rows_QK if exact_QK is None else exact_QK
        overlap = np.mean([len(np.intersect1d(*pair)) / _K for pair in zip(rows_QK, exact_QK, strict=True)])
        ways: dict[str, Way] = {
            str(batch): lambda index=index, width=width, batch=batch: _answers(  # type: ignore[misc]
                index, item_on, query_QD[:batch], width, widths
            )
            for batch in (1, 16, 256)
        }
        ms = {batch: 1e3 * one for batch, one in _medians(ways, device, turns).items()}
        found["rungs"][f"exact{width}"] = {"overlap": float(overlap), "batch_ms": ms}
    return found


def _flat(vector_Nw: np.ndarray, device: torch.device) -> Any:
    if device.type == "cpu":
        index: Any = faiss.IndexFlatIP(vector_Nw.shape[1])
    else:
        index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), vector_Nw.shape[1])
    index.add(vector_Nw)
    return index


def _answers(index: Any, item_ND: torch.Tensor, query_QD: np.ndarray, width: int, widths: WidthLadder) -> np.ndarray:
    """Return each query's best rows: found at a width, scored again at the full one."""
    query_Qw = np.ascontiguousarray(truncate(query_QD, width, widths))
    if width == widths.full:
        rows_QK: np.ndarray = index.search(query_Qw, _K)[1]
        return rows_QK
    rows_QC = torch.from_numpy(index.search(query_Qw, _DEPTH)[1]).to(item_ND.device)
    score_QC = torch.bmm(item_ND[rows_QC], torch.from_numpy(query_QD).to(item_ND)[:, :, None])[:, :, 0]
    return rows_QC.gather(1, score_QC.topk(_K, dim=1).indices).cpu().numpy()


def _print(figures: Figures) -> None:
    console = Console(width=120, highlight=False)
    shown = Table("part", "what", "got", title=f"on {figures['device']}")
    for precision in ("highest", "high", "medium"):
        if "loss" in figures:
            one = figures["loss"][precision]
            said = f"{one['vs_naive_speedup']:.2f} times the loop, {one['share_of_roofline']:.0%} of the roofline"
            shown.add_row("loss", f"float32 products: {precision}", said)
    if "step" in figures:
        shown.add_row("step", "examples a second", f"{figures['step']['examples_per_s']:,.0f}")
    if "ml-1m" in figures:
        one = figures["ml-1m"]
        shown.add_row(
            "ml-1m", "recall@10, ndcg@10", f"{one['recall@10']:.4f}, {one['ndcg@10']:.4f} in {one['seconds']:.0f} s"
        )
    for name, one in figures.get("search", {"rungs": {}})["rungs"].items():
        said = ", ".join(f"{batch}: {ms:.2f} ms" for batch, ms in one["batch_ms"].items())
        shown.add_row("search", f"{name}, overlap {one['overlap']:.4f}", said)
    for name, why in figures["skipped"].items():
        shown.add_row(name, "left out", why)
    console.print(shown)


if __name__ == "__main__":
    main()
