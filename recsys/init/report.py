"""What a person reads when `recsys init` is done: columns, choices, estimates, and what to type next."""

from __future__ import annotations

from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.init.columns import Column
from recsys.init.columns import Table as LogTable
from recsys.init.costs import Costs
from recsys.init.facts import Facts
from recsys.init.verb import Proposal
from recsys.progress import size_text


def print_proposal(proposal: Proposal, console: Console) -> None:
    """Print it."""
    table, facts = proposal.table, proposal.facts
    files = f"{len(table.files):,} file{'s' if len(table.files) > 1 else ''}"
    console.print(
        f"{table.given}: {facts.num_rows:,} rows in {files} ({size_text(table.size_bytes)}), "
        f"{facts.num_users:,} users, {facts.num_items:,} items",
        markup=False,
        soft_wrap=True,
    )
    roles = {getattr(proposal.roles, role): role for role in ("user", "item", "time", "rating")}
    console.print(_columns(table, roles, facts), width=max(console.width, 100))
    for side, one in proposal.described.items():
        features = ", ".join(f"{name} ({feature.kind})" for name, feature in one.features.items()) or "no features"
        title = f"titles from {one.title}; " if one.title else ""
        console.print(f"{side}: {one.table.given}: {title}{features}", markup=False, soft_wrap=True)
    for remark in proposal.remarks:
        console.print(f"note: {remark}", markup=False, soft_wrap=True)
    written = f"\n{proposal.recipe} is written, with a reason for each choice: read it, and change what is wrong."
    console.print(written, markup=False, soft_wrap=True)
    if proposal.training is not None:
        console.print(f"{proposal.training} has settings for training that suit it.", markup=False, soft_wrap=True)
    for line in _estimates(proposal.costs):
        console.print(line, soft_wrap=True)
    console.print("\nNext:")
    for command in proposal.commands():
        console.print(f"  {command}", markup=False, soft_wrap=True)


def _columns(log: LogTable, roles: dict[str, str], facts: Facts) -> Table:
    counted = {"user": facts.num_users, "item": facts.num_items}
    least = "+" if len(log.sample) < log.num_rows else ""
    names = ("column", "taken for", "type", "missing", "unusable", "different", "range, or such as")
    rows = []
    for one in log.columns:
        role = roles.get(one.name, "")
        counts = (f"{number:,}" if number else "" for number in (one.num_missing, one.num_odd))
        different = f"{counted[role]:,}" if role in counted else f"{one.num_distinct:,}{least}"
        rows.append((one.name, role, one.kind, *counts, different, _values(one)))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    used = [place for place, cells in enumerate(zip(*rows, strict=True)) if any(cells)]
    for place in used:
        # Names are what one looks for, and types in again: a narrow terminal folds what is beside them.
        least_width = max(len(one.name) for one in log.columns) if names[place] == "column" else None
        numbers = names[place] in ("missing", "unusable", "different")
        shown.add_column(names[place], justify="right" if numbers else "left", min_width=least_width)
    for cells in rows:
        shown.add_row(*(Text(cells[place]) for place in used))
    return shown


def _values(column: Column) -> str:
    if column.kind == "time" and column.low is not None and column.high is not None:
        return " to ".join(f"{datetime.fromtimestamp(one / 1e6, tz=UTC):%Y-%m-%d}" for one in (column.low, column.high))
    if column.low is not None and column.high is not None:
        return f"{column.low:.10g} to {column.high:.10g}"
    return ", ".join(column.examples)


def _estimates(costs: Costs) -> list[str]:
    return [
        "Estimates, from a short measurement on this machine as busy as it is now (they can be off by a factor of 3):",
        f"  prepare  about {_time(costs.prepare_s)}, {size_text(costs.prepare_bytes)} of memory",
        f"  train    about {_time(costs.epoch_s)} per epoch, {costs.max_epochs} epochs at most "
        f"({_time(costs.epoch_s * costs.max_epochs)}), {size_text(costs.train_bytes)} of memory",
    ]


def _time(seconds: float) -> str:
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds):.0f} s"
