"""A marimo notebook: from MovieLens-100K's interactions to recommendations by width.

``marimo edit examples/widths_notebook.py`` opens it, ``python examples/widths_notebook.py`` runs it as a script.
"""

import marimo

app = marimo.App(width="medium")


@app.cell
def _():
    import os
    import tempfile
    from pathlib import Path

    import marimo as mo
    import polars as pl

    import recsys

    return Path, mo, os, pl, recsys, tempfile


@app.cell
def _(mo):
    mo.md(
        """
        # What a narrower vector saves and loses

        A two-tower model is trained so that every prefix of its vectors is an embedding of its own. Here it learns from
        MovieLens-100K, and then answers at each width.
        """
    )


@app.cell
def _(Path, os, tempfile):
    # Where everything is written, and how long to train. Tests set the two variables; by hand, leave them.
    work = Path(os.environ.get("NOTEBOOK_WORK") or tempfile.mkdtemp())
    quick = {"epochs": 1, "max_events_per_user": 5} if os.environ.get("NOTEBOOK_QUICK") else {}
    return quick, work


@app.cell
def _(mo):
    mo.md("## From the log to a dataset: each user's last film is to be found, the one before it tells when to stop")


@app.cell
def _(pl, recsys, work):
    dataset = recsys.prepare(recipe="ml-100k", out=work / "dataset")
    pl.read_ipc(dataset / "train.arrow").head()
    return (dataset,)


@app.cell
def _(mo):
    mo.md("## Training, at four widths at once")


@app.cell
def _(dataset, quick, recsys, work):
    run = recsys.train(dataset=dataset, out=work / "run", model={"widths": [16, 32, 64, 128]}, **quick)
    return (run,)


@app.cell
def _(mo):
    mo.md(
        """
        ## How good each width is

        Against films that users really chose (recall, ndcg), beside baselines, and against the exact answer of the full
        width (overlap).
        """
    )


@app.cell
def _(dataset, pl, recsys, run):
    report = recsys.evaluate(run=run, dataset=dataset)
    shown = ["recall@10", "ndcg@10", "overlap@100"]
    quality = pl.DataFrame(
        [{"who": row.name} | {name: row.mean(name) for name in shown if name in row.per_query} for row in report.rows]
    )
    quality  # noqa: B018
    return (quality,)


@app.cell
def _(mo):
    mo.md("## The measured ladder: what each way of searching costs on this machine")


@app.cell
def _(dataset, os, recsys, run, work):
    measured = {"num_queries": 64, "repeats": 1} if os.environ.get("NOTEBOOK_QUICK") else {}
    recsys.publish(run=run, dataset=dataset, out=work / "bundles", **measured)
    recommender = recsys.Recommender.load(work / "bundles")
    return (recommender,)


@app.cell
def _(pl, recommender):
    ladder = pl.DataFrame(
        [
            {"rung": rung.name, "width": rung.width, "p99 ms": rung.latency_p99_ms, "KiB": rung.size_bytes / 1024}
            | {f"overlap@{k}": share for k, share in rung.overlap.items()}
            for rung in recommender.bundle.ladder.rungs
        ]
    )
    ladder  # noqa: B018
    return (ladder,)


@app.cell
def _(mo):
    mo.md(
        """
        ## One user at each width

        Searched without scoring again at full width, where the ladder has such a rung. Marked films are also among the
        ten of the best rung of all.
        """
    )


@app.cell
def _(mo, pl, recommender):
    full = set(recommender.recommend("42", k=10).ids)
    by_width = {}
    for _width in recommender.widths:
        _rungs = [rung for rung in recommender.bundle.ladder.rungs if rung.width == _width]
        _plain = min(_rungs, key=lambda rung: (rung.depth, -rung.overlap_at(10)))
        _found = recommender.recommend("42", k=10, rung=_plain.name)
        by_width[f"width {_width}"] = [f"{'✓' if item.id in full else ' '} {item.title}" for item in _found]
    mo.ui.table(pl.DataFrame(by_width), selection=None)
    return (by_width,)


@app.cell
def _(by_width, quality):
    print(quality)
    for _name, _titles in by_width.items():
        print(_name, *_titles, sep="\n  ")


if __name__ == "__main__":
    app.run()
