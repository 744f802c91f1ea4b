"""`recsys init` on logs as people have them: what it guesses, what it writes, what it refuses."""

from __future__ import annotations

import gzip
import random
import tomllib
from pathlib import Path

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.options import PrepareOptions
from recsys.data.prepare import prepare
from recsys.data.recipes import load_recipe
from recsys.errors import ArtifactError, DataError
from recsys.init.verb import InitOptions, Proposal, init


def propose(folder: Path, *files: str | Path, **options: object) -> Proposal:
    given = {"out": folder / "recipe.toml", "sample_rows": 1_000_000, **options}
    return init(InitOptions(files=tuple(map(str, files)), **given))


def prepared(folder: Path, proposal: Proposal) -> Dataset:
    return Dataset(prepare(PrepareOptions(recipe=str(proposal.recipe), out=folder / "dataset")))


def messy_log(folder: Path) -> tuple[Path, Path]:
    """Write a simulated shop's log and products as exports look: semicolons, gaps, typing errors, lines twice."""
    draw = random.Random(7)
    lines = ["Customer ID;Product No;Bought At;Stars;Remark"]
    for event in range(1500):
        user, item = draw.randrange(60), int(draw.triangular(0, 40, 3))
        when = f"2024-{1 + event // 130:02d}-{1 + event % 28:02d} {event % 24:02d}:30:00"
        lines.append(f'C{user:03d};{item:04d};{when};{draw.choice([1, 2, 3, 4, 5])};"well; fine"')
    lines += [";0007;2024-03-01 10:00:00;3;", "C001;;2024-03-01 10:00:00;3;", "C002;0007;yesterday;3;"]
    lines += lines[5:25]
    log = folder / "shop.csv"
    log.write_text("\n".join(lines) + "\n", encoding="latin-1")
    products = ["Product No;Product Name;Tags;Price;Maker;Page;Empty"]
    for item in range(40):
        tags = "|".join(draw.sample(["red", "green", "blue", "café"], 2))
        products.append(f"{item:04d};Thé numéro {item};{tags};{item * 1.25};M{item % 4};https://shop/{item};")
    table = folder / "products.csv"
    table.write_text("\n".join(products) + "\n", encoding="latin-1")
    return log, table


def test_a_messy_export_becomes_a_recipe_that_prepare_takes_as_it_is(tmp_path):
    log, products = messy_log(tmp_path)
    proposal = propose(tmp_path, log, products)
    roles = proposal.roles
    assert (roles.user, roles.item, roles.time, roles.rating) == ("Customer ID", "Product No", "Bought At", "Stars")
    recipe = load_recipe(str(tmp_path / "recipe.toml"))
    assert recipe.log.files == ("shop.csv",)
    assert recipe.log.drop_unusable
    assert recipe.files["shop.csv"].separator == ";"
    assert recipe.items is not None
    assert recipe.items.title == "Product Name"
    assert {name: one.kind for name, one in recipe.items.features.items()} == {
        "title": "text",
        "Tags": "multi_hot",
        "Price": "bucketed",
        "Maker": "categorical",
    }
    dataset = prepared(tmp_path, proposal)
    counts = dataset.manifest["counts"]
    assert (counts["rows_read"], counts["rows_after"]["drop_unusable"]) == (1523, 1520)
    assert counts["rows_after"]["deduplicate"] == 1500
    assert dataset.users.ids([0]) == ["C000"]
    assert dataset.items.ids([0]) == ["0000"]
    assert dataset.item_frame["title"][3] == "Thé numéro 3"
    assert dataset.item_frame["Tags"].explode().n_unique() == 4


def test_the_recipe_is_the_same_each_time_and_says_why_in_every_part(tmp_path):
    files = messy_log(tmp_path)
    first = propose(tmp_path, *files).text
    assert propose(tmp_path, *files, overwrite=True).text == first
    for said in ("3 of 1,523 rows lack a user", "4 different values, with '|' between them", '"Page" is left out: '):
        assert said in first
    for part in ("mask_seen", "deduplicate", "min_user_events", "min_item_events", 'name = "leave-last-out"'):
        before, _, _ = first.partition(f"\n{part}")
        assert before.splitlines()[-1].startswith("# "), part


def test_a_sample_gives_the_same_choices_as_all_rows(tmp_path, datasets):
    log = datasets / "ml-latest-small" / "interactions.parquet"
    whole = propose(tmp_path, log)
    part = propose(tmp_path, log, sample_rows=20_000, overwrite=True)
    assert len(part.table.sample) <= 20_000 < part.table.num_rows
    assert 0 < part.facts.sampled_users < 0.5
    assert (part.roles, part.facts.num_users, part.facts.num_items) == (
        whole.roles, whole.facts.num_users, whole.facts.num_items,
    )  # fmt: skip
    assert tomllib.loads(part.text) == tomllib.loads(whole.text)


@pytest.mark.parametrize(
    ("name", "tables", "protocol", "mask_seen", "deduplicate", "features"),
    [
        ("complete-journey", ["items", "users"], "global-time", False, "exact", 14),
        ("goodbooks-10k-v1", ["items"], "strong-generalization", True, "pairs", 6),
        ("steam-200k", ["items"], "strong-generalization", True, "none", 1),
        ("ml-latest-small", ["items", "tags"], "leave-last-out", True, "none", 3),
    ],
)
def test_real_logs(tmp_path, datasets, name, tables, protocol, mask_seen, deduplicate, features):
    files = [datasets / name / f"{table}.parquet" for table in ("interactions", *tables)]
    proposal = propose(tmp_path, *files)
    recipe = load_recipe(str(proposal.recipe))
    assert (recipe.name, recipe.protocol.name, recipe.mask_seen) == (name, protocol, mask_seen)
    assert recipe.filters.deduplicate == deduplicate
    assert recipe.items is not None
    assert recipe.items.title == "title"
    assert [str(files[-1]) in remark for remark in proposal.remarks] == [True] * (tables[-1] == "tags")
    dataset = prepared(tmp_path, proposal)
    assert len(dataset.specs) == features
    assert dataset.manifest["counts"]["rows_read"] == proposal.facts.num_rows
    assert proposal.costs.epoch_s > 0
    assert proposal.costs.train_bytes > 64 * 4 * proposal.facts.num_items


def test_a_log_without_a_header_is_read_by_place(tmp_path):
    draw = random.Random(3)
    rows = [f"{draw.randrange(50)}\t{draw.randrange(90)}\t{draw.randrange(1, 6)}\t{874724710 + n}" for n in range(900)]
    with gzip.open(tmp_path / "u.data.gz", "wt") as file:
        file.write("\n".join(rows))
    proposal = propose(tmp_path, tmp_path / "u.data.gz")
    roles = proposal.roles
    assert (roles.user, roles.item, roles.time, roles.time_unit) == ("column_1", "column_2", "column_4", "s")
    assert "the file names no columns; the first one looks like ids" in proposal.text
    assert len(prepared(tmp_path, proposal).users) == 50


def test_options_count_more_than_guesses(tmp_path):
    log, products = messy_log(tmp_path)
    proposal = propose(
        tmp_path, log, products, user_column="Product No", item_column="Customer ID", time_column="Bought At",
        rating_column="Stars", min_rating=4.0, protocol="global-time", title_column="Maker",
    )  # fmt: skip
    recipe = load_recipe(str(proposal.recipe))
    assert (recipe.log.user, recipe.log.item, recipe.log.rating) == ("Product No", "Customer ID", "Stars")
    assert (recipe.filters.min_rating, recipe.protocol.name) == (4.0, "global-time")


def test_a_table_that_cannot_describe_anybody_is_left_out_and_said_to_be(tmp_path):
    log, products = messy_log(tmp_path)
    lines = products.read_text(encoding="latin-1").splitlines()
    products.write_text("\n".join([*lines, lines[-1]]), encoding="latin-1")
    proposal = propose(tmp_path, log, products)
    assert not proposal.described
    assert proposal.remarks == [
        f"{products} is not used: 1 rows repeat another row's Product No, and there may be one row per id"
    ]
    with pytest.raises(DataError, match="repeat another row's Product No"):
        propose(tmp_path, log, items=str(products), overwrite=True)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "got an empty file"),
        ("\0\1", {}, "got a binary file"),
        ("city,temperature\nRome,21.5\nOslo,8.25\n", {}, r"got no column that looks like user ids or item ids, .*"),
        (
            "city,temperature\nRome,21.5\nOslo,8.25\n",
            {},
            r"city: string, 2 different in the sample, such as Rome, Oslo",
        ),
        ("city,temperature\nRome,21.5\n", {}, r"Name the right ones with --user-column NAME and --item-column NAME\."),
        ("user,thing\na,b\n", {}, "got no column that looks like item ids"),
        ("user,thing\na,b\n", {"item_column": "thin"}, "--item-column: got 'thin', expected one of"),
        ("user,item\na,b\n", {}, "got 1 usable events of 1 users"),
    ],
)
def test_nonsense_is_refused_with_what_was_seen(tmp_path, text, options, message):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        propose(tmp_path, tmp_path / "log.csv", **options)
    assert not (tmp_path / "recipe.toml").exists()


def test_a_folder_a_missing_file_and_a_recipe_that_is_there_are_refused(tmp_path):
    log, _ = messy_log(tmp_path)
    with pytest.raises(DataError, match=r"got a folder, expected files or a glob"):
        propose(tmp_path, tmp_path)
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        propose(tmp_path, tmp_path / "none.csv")
    propose(tmp_path, log)
    with pytest.raises(ArtifactError, match="already exists"):
        propose(tmp_path, log)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1_700_000_000, 1_700_086_400], ("when", "s")),
        ([1_700_000_000_000, 1_700_086_400_000], ("when", "ms")),
        ([1_700_000_000_000_000, 1_700_086_400_000_000], ("when", "us")),
        ([20240101, 20240102], ("when", "order")),
        (["2024-01-01T10:00:00Z", "2024-01-02T10:00:00Z"], ("when", None)),
        (["early", "late"], (None, None)),
    ],
)
def test_times_are_found_with_their_unit(tmp_path, values, expected):
    frame = pl.DataFrame({"user": [n % 5 for n in range(30)], "item": [n % 7 for n in range(30)], "when": values * 15})
    frame.write_parquet(tmp_path / "log.parquet")
    roles = propose(tmp_path, tmp_path / "log.parquet").roles
    assert (roles.time, roles.time_unit) == expected


def test_values_that_are_many_but_recur_are_hashed(tmp_path):
    num_products, draw = 12_000, random.Random(1)
    products = pl.DataFrame(
        {
            "product": [f"p{row}" for row in range(num_products)],
            "seller": [f"s{row % 5_500}" for row in range(num_products)],
            "code": [f"c{row}" for row in range(num_products)],
        }
    )
    events = pl.DataFrame(
        {
            "customer": [f"u{row % 200}" for row in range(3_000)],
            "product": [f"p{draw.randrange(num_products)}" for _ in range(3_000)],
            "time": [f"2024-01-{1 + row % 28:02} 12:00:00" for row in range(3_000)],
        }
    )
    products.write_csv(tmp_path / "products.csv")
    events.write_csv(tmp_path / "log.csv")
    proposal = propose(tmp_path, tmp_path / "log.csv", tmp_path / "products.csv")
    recipe = load_recipe(str(proposal.recipe))
    assert recipe.items is not None
    seller = recipe.items.features.pop("seller")
    assert (seller.kind, seller.num_buckets) == ("hashed", 65_536)
    assert "code" not in recipe.items.features
    assert "12,000 different values in 12,000 rows, as names or ids have" in proposal.text
    (spec,) = (spec for spec in prepared(tmp_path, proposal).specs if spec.name == "seller")
    assert spec.num_rows == 65_536
