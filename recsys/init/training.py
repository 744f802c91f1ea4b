"""How to train on a log where the defaults do not suit it: the settings that differ, and why."""

from __future__ import annotations

from recsys.init.facts import Facts

_MIN_RETURNING = 0.9


def write_training(facts: Facts) -> str | None:
    """Return settings for `recsys train --config-file` as TOML, None where its defaults are as good a guess.

    Where the same users come back for the same items, a vector for each of them, learned from all of their events at
    once, finds more than the last items of a history do. The settings are those of The Complete Journey's published
    figures (``benchmarks/configs/complete-journey.toml``), whose log is of that kind.
    """
    returning = facts.returning_users or 0.0
    if not facts.comes_again or returning < _MIN_RETURNING:
        return None
    return f"""\
# Proposed by `recsys init`: what differs from the defaults. Change what does not suit, then:
#   recsys train --config-file THIS-FILE --dataset work/dataset --out work/run

# {facts.again:.0%} of events are a user's with an item that they had before, and {returning:.0%} of the users of the
# log's last tenth were there before: who somebody is says more than what they did last. So rows are users
# here, each with all of their events, and one row holds many.
batch_size = 128
# Of such rows an epoch is few steps, so that many are needed; rates that fall to zero end the search.
epochs = 60
patience = 60
rate_schedule = "cosine"
# Moves every row in every step: for tables that fit into memory four times.
table_optimizer = "adam"
table_learning_rate = 0.01

[model]
widths = [16, 32, 64]
embedding_dim = 64
# A vector per user in place of their history. New users are then known by their features alone.
user_id = true
history = "none"
hidden = []
dropout = 0.0
input_dropout = 0.1

[loss]
temperature = [0.1]
# A row's own items are too many to tell from each other: negatives are drawn from the whole catalogue.
num_batch_negatives = 0
num_uniform_negatives = 2048
"""
