"""How to train on a log where the defaults do not suit it: the settings that differ, and why."""

from __future__ import annotations

from recsys.init.facts import Facts

_MIN_RETURNING = 0.9
_MANY_ITEMS = 100_000
_HEAD = """\
# Proposed by `recsys init`: what differs from the defaults. Change what does not suit, then:
#   recsys train --config-file THIS-FILE --dataset work/dataset --out work/run

"""
_ADAM = """\
# Moves every row in every step: for tables that fit into memory four times.
table_optimizer = "adam"
table_learning_rate = 0.01
"""
_LOSS = """\
[loss]
temperature = [0.1]
# A row's own items are too many to tell from each other: negatives are drawn from the whole catalogue.
num_batch_negatives = 0
num_uniform_negatives = 2048
"""


def write_training(facts: Facts) -> str | None:
    """Return settings for `recsys train --config-file` as TOML, None where its defaults are as good a guess.

    Where the same users come back for the same items, a vector for each of them, learned from all of their events at
    once, finds more than the last items of a history do. The settings are those of The Complete Journey's published
    figures (``benchmarks/configs/complete-journey.toml``), whose log is of that kind.

    Without times no item is the last: all of a history counts alike, and a user is one row. An epoch is then few rows,
    for which steps are made smaller.
    """
    if facts.returning_users is None:
        # Adam moves all tables in every step.
        return None if facts.num_items > _MANY_ITEMS else _HEAD + _without_times()
    if facts.comes_again and facts.returning_users >= _MIN_RETURNING:
        return _HEAD + _by_user(again=facts.again, returning=facts.returning_users)
    return None


def _without_times() -> str:
    return f"""\
# Without times a row is a user, whose items are split at random into a history and what follows. An epoch is
# few rows, so that small batches and rates that fall to zero make the most of it.
batch_size = 128
epochs = 12
patience = 12
rate_schedule = "cosine"
{_ADAM}
[model]
widths = [16, 32, 64, 128]
embedding_dim = 128
# No item is the last one: the mean of all says who somebody is.
history_windows = [200]
hidden = []
dropout = 0.0
input_dropout = 0.1

{_LOSS}"""


def _by_user(*, again: float, returning: float) -> str:
    return f"""\
# {again:.0%} of events are a user's with an item that they had before, and {returning:.0%} of the users of the
# log's last tenth were there before: who somebody is says more than what they did last. So rows are users
# here, each with all of their events, and one row holds many.
batch_size = 128
# Of such rows an epoch is few steps, so that many are needed; rates that fall to zero end the search.
epochs = 60
patience = 60
rate_schedule = "cosine"
{_ADAM}
[model]
widths = [16, 32, 64]
embedding_dim = 64
# A vector per user in place of their history. New users are then known by their features alone.
user_id = true
history = "none"
hidden = []
dropout = 0.0
input_dropout = 0.1

{_LOSS}"""
