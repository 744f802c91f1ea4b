"""From somebody's CSV files to recommendations: every verb takes what the one before it wrote, nothing edited."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import recsys
from recsys.cli import main


def shop(folder: Path) -> list[Path]:
    """Write a simulated shop's log and products; customers mostly buy one colour."""
    draw = random.Random(5)
    log = ["customer,sku,bought_at,price"]
    for event in range(1200):
        customer = draw.randrange(80)
        sku = 3 * draw.randrange(30) + (customer % 3 if draw.random() < 0.9 else draw.randrange(3))
        log.append(f"c{customer},{sku:03d},2025-{1 + event // 110:02d}-{1 + event % 28:02d}T08:00:00,{sku * 0.5}")
    log += [",007,2025-05-01T08:00:00,1.0", *log[5:25]]
    products = ["sku,product_name,colour"]
    products += [f'{sku:03d},"Thing, number {sku}",{("red", "green", "blue")[sku % 3]}' for sku in range(90)]
    paths = [folder / "log.csv", folder / "products.csv"]
    for path, lines in zip(paths, (log, products), strict=True):
        path.write_text("\n".join(lines) + "\n")
    return paths


def test_a_csv_becomes_recommendations(tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "recipe.toml"
    words = ["recsys", "init", *map(str, shop(tmp_path)), "--out", str(recipe)]
    monkeypatch.setattr(sys, "argv", [*words, "--json"])
    main()
    said = json.loads(capsys.readouterr().out)
    assert said["facts"]["num_users"] == 80
    assert said["next"][0] == f"recsys prepare --recipe {recipe} --out work/dataset"
    assert said["estimates"]["prepare_s"] > 0
    monkeypatch.setattr(sys, "argv", [*words, "--overwrite"])
    main()
    shown = capsys.readouterr().out
    assert all(command in shown for command in said["next"])
    assert "Estimates, from a short measurement on this machine" in shown

    dataset = recsys.prepare(recipe=str(recipe), out=tmp_path / "dataset")
    run = recsys.train(
        dataset=dataset, out=tmp_path / "run", epochs=2, batch_size=64, device="cpu",
        model={"widths": [4, 8], "embedding_dim": 8, "hidden": [16]},
    )  # fmt: skip
    recsys.publish(run=run, dataset=dataset, out=tmp_path / "bundles", num_queries=32, repeats=1)
    found = recsys.Recommender.load(tmp_path / "bundles").recommend("c7", k=5, width=4)
    assert len(found) == 5
    assert all(item.title and item.title.startswith("Thing, number ") for item in found)
