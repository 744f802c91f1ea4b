"""What was run: from a run's and a dataset's records to settings, versions, checksums and commands that say it all."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.config import TrainConfig
from recsys.settings import to_mapping


def changed_settings(config: Mapping[str, Any]) -> str:
    """Return the settings of a training run that differ from the defaults, as TOML for ``--config-file``."""
    lines, tables = [], []
    defaults = to_mapping(TrainConfig())
    for name, value in config.items():
        default = defaults.get(name)
        if isinstance(value, dict):
            own = [
                f"{key} = {json.dumps(one)}"
                for key, one in value.items()
                if one is not None and one != (default or {}).get(key)
            ]
            tables += ["", f"[{name}]", *own] if own else []
        elif value is not None and value != default:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join([*lines, *tables]).strip()


def all_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return every setting by its dotted name, as JSON."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= all_settings(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value, ensure_ascii=False)
    return found


def commands(*, run: Path, dataset: Path, split: str, bundles: Path | None, has_config: bool) -> list[str]:
    """Return the commands that lead from the dataset to what the report shows, as a shell takes them."""
    both = ["--run", str(run), "--dataset", str(dataset)]
    settings = ["--config-file", "train.toml"] if has_config else []
    found = [
        ["recsys", "train", "--dataset", str(dataset), "--out", str(run), *settings],
        ["recsys", "evaluate", *both, "--split", split],
    ]
    if bundles is not None:
        found.append(["recsys", "publish", *both, "--out", str(bundles)])
    return [shlex.join(words) for words in found]
