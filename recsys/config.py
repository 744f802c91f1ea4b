"""Every setting of a training run, checked before anything is read or written.

Plain frozen dataclasses: the command line shows and overrides each field, a TOML file may set any of them, and the
run's folder keeps the configuration that ran. Settings of publishing and serving live beside the code they configure.
"""

from __future__ import annotations

import itertools
import math
import typing
from dataclasses import dataclass, field
from typing import Literal

from recsys.errors import ConfigError
from recsys.widths import Head, Norm, WidthLadder

Precision = Literal["float32", "bf16"]
"""What towers compute in."""

TablePrecision = Literal["float32", "fp16"]
"""What tables are kept in."""

LEAST_TEMPERATURE = 0.01
"""What a learned softmax temperature always stays above."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The two towers."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Widths to train, narrowest first; the last is the full width."""
    norm: Norm = "prefix"
    """What is scaled to unit length: ``prefix``, each width's prefix, so that scores are cosines at every width, or
    ``full``, the full vector alone, so that a narrow score is a part of the full-width cosine's sum."""
    head: Head = "tied"
    """What a user is at a width: ``tied``, a prefix of one vector (MRL-E), or ``per_width``, a vector from a projection
    of that width's own (MRL). An item is one vector and its prefixes either way."""
    projection: bool = True
    """Whether a learned projection leads from what a tower sees to its vector. Without one a row of the tower's only
    table is the vector, as in matrix factorisation: for one input a side, no features and no hidden layers. Such a
    projection would turn all vectors of a side at once, in every step, and so unsettle what the rows have learned."""
    embedding_dim: int = 64
    """Dimensions of every embedding table; a multiple of 4."""
    hidden: tuple[int, ...] = (256,)
    """Sizes of each tower's hidden layers; none makes the towers linear."""
    history: Literal["mean", "attention", "sequence", "none"] = "mean"
    """How the user tower reads a history. ``mean``: the means of its last items, over ``history_windows``.
    ``attention``: weighted by what is learned of them, beside the means. ``sequence``: by a causal encoder that learns
    from every position of a history at once; the log needs an order. ``none``: not at all; a user is their id and
    features, and new users are known by their features alone."""
    history_windows: tuple[int, ...] = (1, 5, 50)
    """With ``mean`` and ``attention``, the last n items of a history, averaged for each n: short windows say what now,
    long ones who. Attention may do without."""
    history_features: tuple[int, ...] = ()
    """With ``mean`` and ``attention``, also the features of the last n items of a history, for each n one mean per
    feature over all the values that they have: what was chosen says something by its kind too, where each item was seen
    too seldom to speak for itself. The towers then keep all items' features as they were in training. None: a history's
    items are known by their ids alone."""
    sequence_length: int = 200
    """The last items of a history that attention or the sequence encoder reads."""
    num_blocks: int = 2
    """Blocks of the sequence encoder."""
    num_heads: int = 2
    """Heads of attention and of the sequence encoder; they share ``embedding_dim`` evenly."""
    time_bias: bool = False
    """Whether the sequence encoder also sees how much time lies between two items, in logs with times. It then reads
    items of unknown time too, as those of a request."""
    user_id: bool = False
    """Also learn a vector per user: helps known users where histories have no order, does nothing for new ones."""
    dropout: float = 0.1
    """Share of each tower's hidden units, and of the sequence encoder's, that are dropped in training."""
    input_dropout: float = 0.0
    """Share of each tower's inputs, coordinates of pooled embeddings, that are dropped in training: for small logs."""
    item_input_dropout: float | None = None
    """That share of the item tower's inputs, where it is another one; none means ``input_dropout`` there too."""
    item_id_dropout: float = 0.0
    """Share of items whose id is hidden from the item tower in a training step, so that features alone can place new
    items."""

    def __post_init__(self) -> None:
        WidthLadder(self.widths, norm=self.norm, head=self.head)
        _require(
            self.embedding_dim > 0 and self.embedding_dim % 4 == 0,
            "embedding_dim",
            self.embedding_dim,
            "a multiple of 4",
        )
        _require(all(size > 0 for size in self.hidden), "hidden", self.hidden, "positive sizes")
        kinds = typing.get_args(typing.get_type_hints(ModelConfig)["history"])
        _require(self.history in kinds, "history", self.history, f"one of {', '.join(kinds)}")
        windows = self.history_windows
        rising = all(low < high for low, high in itertools.pairwise(windows))
        _require(
            (bool(windows) or self.history != "mean") and min(windows, default=1) > 0 and rising,
            "history_windows",
            windows,
            "positive, strictly increasing",
        )
        windows = self.history_features
        rising = all(low < high for low, high in itertools.pairwise(windows))
        _require(min(windows, default=1) > 0 and rising, "history_features", windows, "positive, strictly increasing")
        _require(
            not windows or self.history in ("mean", "attention"),
            "history_features",
            windows,
            f"none with history {self.history}",
        )
        for name in ("sequence_length", "num_blocks", "num_heads"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(
            self.embedding_dim % self.num_heads == 0 or self.history in ("mean", "none"),
            "num_heads",
            self.num_heads,
            f"a divisor of embedding_dim ({self.embedding_dim})",
        )
        _require(
            not self.time_bias or self.history == "sequence",
            "time_bias",
            self.time_bias,
            f"false with history {self.history}: only the sequence encoder has one",
        )
        self._check_projection()
        for name in ("dropout", "input_dropout", "item_input_dropout", "item_id_dropout"):
            given = getattr(self, name)
            _require(given is None or 0 <= given < 1, name, given, "at least 0 and below 1")
        _require(
            self.history != "none" or self.user_id,
            "history",
            self.history,
            "mean without user_id: there is nothing else to tell users apart by",
        )

    def _check_projection(self) -> None:
        if self.projection:
            return
        num_inputs = len(self.windows) + len(self.history_features) + (self.encoded_history > 0) + self.user_id
        for name, expected, fits in (
            ("hidden", "none", not self.hidden),
            ("head", "tied", self.head == "tied"),
            ("embedding_dim", f"the full width, {self.widths[-1]}", self.embedding_dim == self.widths[-1]),
            ("user_id", "one input: history in one window, or encoded, or the id", num_inputs == 1),
        ):
            _require(fits, name, getattr(self, name), f"{expected} without projection")

    @property
    def windows(self) -> tuple[int, ...]:
        """The windows of history that are averaged."""
        return self.history_windows if self.history in ("mean", "attention") else ()

    @property
    def longest_history(self) -> int:
        """The last items of a history that the user tower reads at most."""
        return max(self.encoded_history, *self.windows, *self.history_features, 0)

    @property
    def encoded_history(self) -> int:
        """The last items of a history that an encoder reads at most; 0 where none does."""
        return self.sequence_length if self.history in ("attention", "sequence") else 0

    @property
    def ladder(self) -> WidthLadder:
        """The widths, with what vectors are at each of them."""
        return WidthLadder(self.widths, norm=self.norm, head=self.head)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What pulls users and their items together at every width."""

    kind: Literal["sampled_softmax", "bilateral_softmax", "full_softmax"] = "sampled_softmax"
    """``sampled_softmax``: over the batch's items and drawn negatives, corrected by logQ. ``bilateral_softmax``: the
    same samples, with a log-mean-exp over a user's positives in the batch (BSL). ``full_softmax``: over the whole
    catalogue, which is encoded in every step."""
    temperature: tuple[float, ...] = (0.07,)
    """Softmax temperature of the score: one for all widths, or one per width."""
    learn_temperature: bool = False
    """Learn a temperature per width, from ``temperature`` on; it always stays above .01."""
    weights: tuple[float, ...] = (1.0,)
    """Weight of each width's loss: one for all widths, or one per width."""
    learn_weights: bool = False
    """Learn the weights of widths, from ``weights`` on, as the inverse of each loss's own noise."""
    num_batch_negatives: int | None = None
    """How many of a batch's positives, taken at random, are other rows' negatives; none means all of them."""
    num_uniform_negatives: int = 512
    """Negatives drawn uniformly from the catalogue per batch."""
    num_popular_negatives: int = 0
    """Negatives drawn in proportion to how often an item is a training example's, to the power below, per batch."""
    popularity_power: float | None = None
    """Power of the popularity that popular negatives are drawn by: 1 as it is, towards 0 ever more even; .75 is usual.
    Popular negatives need it."""
    queue_size: int = 0
    """Negatives of earlier batches that stay negatives, with the vectors that they had then."""
    num_hard_negatives: int | None = None
    """Keep at each width only so many of a vector's negatives, those nearest at that width; none means all of them."""
    positive_ratio: float = 1.0
    """Bilateral softmax: temperature of the positives' side as a multiple of the negatives'."""
    negative_weight: float = 1.0
    """Bilateral softmax: weight of the negatives' side; above 1 vectors spread out more evenly."""
    distillation: float = 0.0
    """Weight of each narrower width's cross-entropy to the full width's softmax, beside its own to the positive."""
    energy_weight: float = 0.0
    """Weight of the penalty on vectors whose prefixes hold less of the squared norm than the energy profile asks."""
    energy_decay: float = 5.0
    """The profile lets the first w of D coordinates leave out (1 - w/D)**energy_decay of the squared norm: 1 is an even
    spread, 5 lets the first quarter leave out 24%."""
    energy_parts: int = 1
    """Equal parts of the vector at whose ends the profile asks too, beside the trained widths; Panorama looks at 8."""
    energy_ramp: float = 0.0
    """Share of training over which the penalty's weight grows from 0, in a straight line, to ``energy_weight``, so that
    vectors may find their places first; 0: it is there from the start."""

    def __post_init__(self) -> None:
        _require(bool(self.temperature) and min(self.temperature) > 0, "temperature", self.temperature, "above 0")
        _require(
            not self.learn_temperature or min(self.temperature) > LEAST_TEMPERATURE,
            "temperature",
            self.temperature,
            f"above {LEAST_TEMPERATURE} with learn_temperature",
        )
        positive = bool(self.weights) and min(self.weights) >= 0 and max(self.weights) > 0
        _require(positive, "weights", self.weights, "0 or more, at least one above 0")
        _require(not self.learn_weights or min(self.weights) > 0, "weights", self.weights, "above 0 with learn_weights")
        kinds = typing.get_args(typing.get_type_hints(LossConfig)["kind"])
        _require(self.kind in kinds, "kind", self.kind, f"one of {', '.join(kinds)}")
        for name in ("positive_ratio", "negative_weight"):
            given = getattr(self, name)
            _require(0 < given < math.inf, name, given, "above 0, and finite")
            expected = f"1 with {self.kind}: only bilateral_softmax tells the two sides apart"
            _require(given == 1 or self.kind == "bilateral_softmax", name, given, expected)
        for name in ("distillation", "energy_weight"):
            _require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or more, and finite")
        _require(1 <= self.energy_decay < math.inf, "energy_decay", self.energy_decay, "1 or more, and finite")
        _require(self.energy_parts > 0, "energy_parts", self.energy_parts, "above 0")
        _require(0 <= self.energy_ramp <= 1, "energy_ramp", self.energy_ramp, "0 to 1: a share of training")
        self._check_negatives()

    def _check_negatives(self) -> None:
        unused = {
            "num_batch_negatives": None,
            "num_uniform_negatives": 0,
            "num_popular_negatives": 0,
            "queue_size": 0,
            "num_hard_negatives": None,
        }
        for name, value in unused.items():
            given = getattr(self, name)
            _require(given is None or given >= 0, name, given, "0 or more")
            expected = f"{value} with full_softmax: the whole catalogue is there already"
            _require(self.kind != "full_softmax" or given == value, name, given, expected)
        _require(self.num_hard_negatives != 0, "num_hard_negatives", 0, "above 0: there is nothing else to learn from")
        power = self.popularity_power
        _require(power is None or 0 < power <= 1, "popularity_power", power, "above 0 and at most 1")
        _require(
            power is not None or self.num_popular_negatives == 0,
            "popularity_power",
            power,
            "a power for num_popular_negatives: without it an item's sampling probability, needed by logQ, is unknown",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rows: Literal["auto", "event"] = "auto"
    """What a training row is. ``auto``: an event of a log with an order, a window of events for a sequence encoder,
    else a user with all their events. ``event``: an event also where the tower reads no history, as matrix
    factorisation is commonly trained. A user's vector then moves once for each of their events instead of once in an
    epoch: slower per epoch, and part of what Gowalla's best figures were reached with (`docs/quality.md`)."""
    batch_size: int = 1024
    """Rows per step, over all processes."""
    num_micro_batches: int = 1
    """Micro-batches that a process takes its part of a step through the towers in, one after another. Gradients
    accumulate, and memory holds the activations of one at a time; each is encoded twice, the second time going
    backward. The step stays that of the whole batch: its negatives, dropout, gradients, and one update of tables."""
    precision: Precision = "float32"
    """In what towers and encoders of histories compute. ``bf16`` halves their activations, and is faster where a device
    has units for it, as CUDA devices have; other CPUs take far longer. Weights, optimizers, lookups and the loss are
    float32 in any case."""
    epochs: int = 20
    """Passes over the training events at most."""
    patience: int = 3
    """Stop after this many epochs without a better validation ndcg@10 at full width."""
    table_optimizer: Literal["rowwise_adagrad", "adagrad", "adam"] = "rowwise_adagrad"
    """How tables learn. ``rowwise_adagrad`` (inside the backward pass, rows spread over processes) keeps one number per
    row; ``adagrad`` one per coordinate, as much memory again as the table, and so does not starve coordinates that only
    the wider widths train. ``adam`` moves every row in every step, so each process holds the whole table, its gradient
    and its moments, four times the table's memory: for tables of some ten thousand rows."""
    table_precision: TablePrecision = "float32"
    """In what tables are kept in training. ``fp16`` halves their memory, not with Adam. Sums, optimizers and exported
    towers are float32; but a step of less than about a three-thousandth of a coordinate is rounded away, so that
    learning ends sooner."""
    table_learning_rate: float = 0.2
    """The table optimizer's rate; Adam's is far smaller than Adagrad's, about 0.01."""
    dense_learning_rate: float = 1e-3
    """AdamW's rate for the towers."""
    rate_schedule: Literal["constant", "cosine"] = "constant"
    """Whether rates stay as they are or fall along half a cosine, step by step, to nothing at the end of ``epochs``."""
    weight_decay: float = 1e-2
    """AdamW's decay."""
    averaged_epochs: int = 1
    """Make towers of the mean of the weights that the last epochs, about so many, ended with; older ones fade. Where
    rates stay as they are it takes out of weights what falling rates would, and training may go on. Takes one more copy
    of tables. 1: the last weights as they are."""
    include_validation: bool = False
    """Train on the validation split too, for all ``epochs``, and keep the last towers: for a final model, once
    validation has chosen everything, the number of epochs too."""
    validation_users: int = 10_000
    """Users whose validation targets are ranked after each epoch; a seeded sample where there are more."""
    pretrained_items: str | None = None
    """Vectors that items' rows start with: a matrix in an .npy file, or the only tensor of a .safetensors file, as wide
    as ``embedding_dim``. Used as they are, so best scaled to about unit length, which rows without one start with.
    Read once: a run that goes on has them in its checkpoint."""
    pretrained_ids: str | None = None
    """Whose vectors those are: a text file of items' ids, one a line, in the order of the vectors."""
    max_events_per_user: int | None = None
    """Train only on each user's latest events (histories still reach further back); none means all."""
    recency_half_life: float | None = None
    """Days after which an event is half as likely to be a row of an epoch: makes epochs shorter and the present count
    more; none means that every epoch has all of them."""
    seed: int = 1
    """Fixes initial weights, shuffles, negatives and dropout."""
    device: str = "auto"
    """``cpu``, ``cuda``, or ``auto``: CUDA where there is a device."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_micro_batches", "epochs", "patience", "averaged_epochs", "validation_users"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("rows", "precision", "table_optimizer", "table_precision", "rate_schedule"):
            known = typing.get_args(typing.get_type_hints(TrainConfig)[name])
            _require(getattr(self, name) in known, name, getattr(self, name), f"one of {', '.join(known)}")
        _require(
            self.table_precision == "float32" or self.table_optimizer != "adam",
            "table_precision",
            self.table_precision,
            "float32 with table_optimizer adam",
        )
        for name in ("table_learning_rate", "dense_learning_rate"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(
            self.rows == "auto" or self.model.history == "none",
            "rows",
            self.rows,
            f"auto with history {self.model.history}, which says what a row is",
        )
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        vectors, ids = self.pretrained_items, self.pretrained_ids
        _require(vectors is None or ids is not None, "pretrained_ids", ids, "a file of ids for pretrained_items")
        _require(
            ids is None or vectors is not None, "pretrained_items", vectors, "a file of vectors for pretrained_ids"
        )
        for name in ("max_events_per_user", "recency_half_life"):
            given = getattr(self, name)
            _require(given is None or given > 0, name, given, "above 0")
        _require(
            self.recency_half_life is None or self.rows == "event" or self.model.history in ("mean", "attention"),
            "recency_half_life",
            self.recency_half_life,
            f"none with history {self.model.history}: its rows are of many events",
        )
        _require(self.device in ("auto", "cpu", "cuda"), "device", self.device, "one of auto, cpu, cuda")
        for name in ("temperature", "weights"):
            given = getattr(self.loss, name)
            wanted = len(self.model.widths)
            _require(len(given) in (1, wanted), f"loss.{name}", given, f"one value, or {wanted}: one per width")
        self._check_negatives()
        for name in ("distillation", "energy_weight"):
            given = getattr(self.loss, name)
            expected = f"0 with the single width {self.model.widths[-1]}: it is for narrower ones"
            _require(given == 0 or len(self.model.widths) > 1, f"loss.{name}", given, expected)

    def _check_negatives(self) -> None:
        loss, in_batch = self.loss, self.loss.num_batch_negatives
        _require(
            in_batch is None or in_batch <= self.batch_size,
            "loss.num_batch_negatives",
            in_batch,
            f"at most {self.batch_size}, the rows of a batch: there may be no more positives",
        )
        _require(
            self.model.history != "sequence" or in_batch is not None or loss.kind == "full_softmax",
            "loss.num_batch_negatives",
            in_batch,
            "a number with history sequence, best 0: a batch's positives are those of few users, also a vector's own",
        )
        if loss.num_uniform_negatives + loss.num_popular_negatives > 0 or loss.kind == "full_softmax":
            return
        nothing = "without drawn negatives: there is nothing to tell a positive from"
        _require(self.batch_size > 1, "batch_size", self.batch_size, f"above 1 {nothing}")
        _require(in_batch != 0, "loss.num_batch_negatives", in_batch, f"above 0 {nothing}")


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {got!r}, expected {expected}")
