"""The model as it is trained: TorchRec tables, and a tower on each side.

One lookup per step serves both towers: side by side, the lists of users and the distinct items of the batch. The
shorter side is filled up with empty bags, so that histories and items are pooled from the one shared item table in a
single sharded call. An encoder of histories needs their items one by one: the distinct ones of the batch are a third
list of bags, from whose vectors histories are put together.

Shapes: ``user_VU`` (user vectors, query size), ``item_SD`` (samples, full width), ``item_TE`` (items of all histories,
embedding_dim), ``B`` lists.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor, PoolingType
from torchrec.distributed.types import LazyAwaitable
from torchrec.modules.embedding_configs import DataType

from recsys.config import TablePrecision
from recsys.data.parts import Parts
from recsys.model.dropout import draw_rows
from recsys.model.history import history_encoder
from recsys.model.layout import HISTORY, HISTORY_TIME, Layout
from recsys.model.micro_batches import encode_in_parts
from recsys.model.sequence import SequenceEncoder
from recsys.model.tower import Tower
from recsys.ragged import Ragged


@dataclass(frozen=True)
class Histories:
    """The lists that an encoder reads.

    Args:
        place_T: ``(items,)`` places of all lists' items among the distinct ones.
        length_B: ``(lists,)`` items of each list.
        time_T: ``(items,)`` their times, where an encoder reads those.
    """

    place_T: Int[Tensor, " items"]
    length_B: Int[Tensor, " lists"]
    time_T: Int[Tensor, " items"] | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Histories:
        """Return the same with each tensor changed, as by moving it to a device."""
        return Histories(
            change(self.place_T), change(self.length_B), None if self.time_T is None else change(self.time_T)
        )

    def cut(self, counts: Sequence[int]) -> list[Histories]:
        """Return consecutive lists, so many in each part."""
        lengths = torch.split(self.length_B, list(counts))
        items = [int(length_B.sum()) for length_B in lengths]
        times = [None] * len(items) if self.time_T is None else torch.split(self.time_T, items)
        return [Histories(*part) for part in zip(torch.split(self.place_T, items), lengths, times, strict=True)]


class BatchParts(NamedTuple):
    """Which of a step's rows a process looks up; None for all of them.

    Args:
        lists: that the user tower reads.
        vectors: that it makes of them.
        samples: distinct items.
    """

    lists: Parts | None = None
    vectors: Parts | None = None
    samples: Parts | None = None


WHOLE_BATCH = BatchParts()

_DATA_TYPES: dict[TablePrecision, DataType] = {"float32": DataType.FP32, "fp16": DataType.FP16}


class ListsPart(NamedTuple):
    """Consecutive lists of a batch.

    Args:
        lists: which.
        histories: theirs, for a model that encodes them.
        parts: which of the step's rows they are.
    """

    lists: slice
    histories: Histories | None
    parts: BatchParts


@dataclass(frozen=True)
class Batch:
    """What one step looks up.

    Args:
        features: every input's bags; stride is the largest number of them.
        num_lists: the first so many bags of user inputs are of users.
        num_samples: the first so many bags of item inputs are of items.
        parts: which of the step's rows these are.
        histories: for a model that encodes them.
    """

    features: KeyedJaggedTensor
    num_lists: int
    num_samples: int
    parts: BatchParts
    histories: Histories | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Move to a device."""
        features = self.features.to(device, non_blocking)
        return self._with(features, lambda one: one.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Move to memory that a GPU reads by itself."""
        return self._with(self.features.pin_memory(), Tensor.pin_memory)

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until a stream is done with it."""
        self.features.record_stream(stream)
        if self.histories is not None:
            for one in (self.histories.place_T, self.histories.length_B, self.histories.time_T):
                if one is not None:
                    one.record_stream(stream)

    def _with(self, features: KeyedJaggedTensor, change: Callable[[Tensor], Tensor]) -> Batch:
        histories = None if self.histories is None else self.histories.each(change)
        return replace(self, features=features, histories=histories)

    def cut_lists(self, num_parts: int) -> list[ListsPart]:
        """Return the lists in so many parts, or as many as there are lists."""
        if num_parts == 1:
            return [ListsPart(slice(self.num_lists), self.histories, self.parts)]
        lists, vectors, _ = self.parts
        assert lists is not None, "parts: got none of a batch that is to be cut"
        assert vectors is not None, "parts: got lists without vectors"
        counts = _even(self.num_lists, num_parts)
        histories = [None] * len(counts) if self.histories is None else self.histories.cut(counts)
        # A tower makes one vector of a list, or one at each of its positions: as many as items, and one for the start.
        num_vectors = counts
        if self.histories is not None and vectors.total > lists.total:
            num_vectors = tuple(len(one.place_T) + len(one.length_B) for one in self.histories.cut(counts))
        return [
            ListsPart(bounds, of_part, BatchParts(lists=of_lists, vectors=of_vectors))
            for bounds, of_part, of_lists, of_vectors in zip(
                _bounds(counts), histories, lists.cut(counts), vectors.cut(num_vectors), strict=True
            )
        ]

    def cut_samples(self, num_parts: int) -> list[tuple[slice, Parts | None]]:
        """Return the samples in so many parts, or as many as there are, and which of the step's rows they are."""
        if num_parts == 1:
            return [(slice(self.num_samples), self.parts.samples)]
        assert self.parts.samples is not None, "parts: got none of a batch that is to be cut"
        counts = _even(self.num_samples, num_parts)
        return list(zip(_bounds(counts), self.parts.samples.cut(counts), strict=True))


class TwoTower(nn.Module):
    """Embedding tables with mean pooling and two towers over them.

    What comes after the lookup is a module of its own: TorchRec's pipelines follow a model's forward pass symbolically
    to where its sharded lookup gets its input, and leave alone what holds no tables.

    Args:
        layout: tables and inputs.
        device: of the tables; ``meta`` when a sharding planner will place them. They start as zeros: see
            `recsys.train.initial`.
        table_precision: of the tables; what is looked up in them is float32.
        num_micro_batches: parts that lists and samples go through the towers in, while gradients are recorded.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        device: torch.device,
        table_precision: TablePrecision = "float32",
        num_micro_batches: int = 1,
    ) -> None:
        super().__init__()
        self.tables = EmbeddingBagCollection(
            device=device,
            tables=[
                EmbeddingBagConfig(
                    name=table,
                    embedding_dim=layout.config.embedding_dim,
                    num_embeddings=rows,
                    feature_names=[source.name for source in layout.inputs if source.table == table],
                    pooling=PoolingType.MEAN,
                    init_fn=nn.init.zeros_,
                    data_type=_DATA_TYPES[table_precision],
                )
                for table, rows in layout.tables.items()
            ],
        )
        self.towers = Towers(layout, num_micro_batches=num_micro_batches)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "vectors query"], Float[Tensor, "samples full"]]:
        """Return unnormalised vectors of users, one per list or one per position of every list, and of items."""
        vectors: tuple[Tensor, Tensor] = self.towers(self.tables(batch.features), batch)
        return vectors


class Towers(nn.Module):
    """The dense part: an encoder of histories where there is one, and a `Tower` for each side.

    Args:
        layout: inputs.
        num_micro_batches: as of `TwoTower`.
    """

    def __init__(self, layout: Layout, *, num_micro_batches: int = 1) -> None:
        super().__init__()
        self.layout, self._num_micro_batches = layout, num_micro_batches
        self.history = history_encoder(layout.config)
        self.user_tower = Tower(layout.num_user_vectors, layout.config, side="user")
        self.item_tower = Tower(len(layout.item_inputs), layout.config, side="item")

    def forward(
        self, looked_up: KeyedTensor | LazyAwaitable[KeyedTensor], batch: Batch
    ) -> tuple[Float[Tensor, "vectors query"], Float[Tensor, "samples full"]]:
        """Return what `TwoTower` does, of what bags pool to, or of a promise of it, as sharded tables give."""
        pooled = looked_up.to_dict()
        users = [pooled[source.name][: batch.num_lists] for source in self.layout.user_inputs]
        items = [pooled[source.name][: batch.num_samples] for source in self.layout.item_inputs]
        if self.training and self.layout.config.item_id_dropout > 0:
            # As an item without a known id has it: an empty bag pools to zeros, and nothing is scaled up for that.
            drawn_S = draw_rows(batch.num_samples, batch.parts.samples, items[0].device)
            items[0] = items[0] * (drawn_S >= self.layout.config.item_id_dropout)[:, None]
        distinct_IE, pooled_SC = pooled.get(HISTORY), torch.cat(items, dim=-1)
        num_parts = self._num_micro_batches if torch.is_grad_enabled() else 1
        of_users = [
            ([user_BE[part.lists] for user_BE in users], distinct_IE, part.histories, part.parts)
            for part in batch.cut_lists(num_parts)
        ]
        of_items = [(pooled_SC[part], rows) for part, rows in batch.cut_samples(num_parts)]
        user_VU = encode_in_parts(self._encode_users, of_users, pooled_SC.device)
        return user_VU, encode_in_parts(self.item_tower, of_items, pooled_SC.device)

    def _encode_users(
        self, users: list[Tensor], distinct_IE: Tensor | None, histories: Histories | None, parts: BatchParts
    ) -> Tensor:
        if histories is not None:
            assert distinct_IE is not None
            users = self._with_histories(users, distinct_IE, histories, parts)
        vector_VU: Tensor = self.user_tower(torch.cat(users, dim=-1), parts.vectors)
        return vector_VU

    def _with_histories(
        self, users: list[Tensor], distinct_IE: Tensor, histories: Histories, parts: BatchParts
    ) -> list[Tensor]:
        """Return what the user tower sees at each of its vectors, encoded histories first."""
        item_TE = nn.functional.embedding(histories.place_T, distinct_IE)
        if isinstance(self.history, SequenceEncoder):
            state_VE = self.history(item_TE, histories.length_B, histories.time_T, parts.lists, parts.vectors)
            return [state_VE, *(user_BE.repeat_interleave(histories.length_B + 1, dim=0) for user_BE in users)]
        assert self.history is not None, "histories: got some for a model that encodes none"
        return [self.history(item_TE, histories.length_B), *users]


def make_batch(
    layout: Layout,
    user_bags: Mapping[str, Ragged],
    item_bags: Mapping[str, Ragged],
    parts: BatchParts = WHOLE_BATCH,
) -> Batch:
    """Join the bags of B users, of S items and of what histories hold into one KeyedJaggedTensor.

    Keys come in the order of the layout's tables, so that the sharded lookup need not permute them.
    """
    num_lists, num_samples = (len(next(iter(bags.values()))) for bags in (user_bags, item_bags))
    bags, histories = {**user_bags, **item_bags}, None
    if HISTORY in user_bags:
        bags[HISTORY], histories = _distinct(user_bags[HISTORY], user_bags.get(HISTORY_TIME))
    keys = [source.name for source in layout.inputs]
    stride = max(len(bags[key]) for key in keys)
    lengths = np.zeros((len(keys), stride), dtype=np.int64)
    for length, key in zip(lengths, keys, strict=True):
        length[: len(bags[key])] = bags[key].lengths
    features = KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(np.concatenate([bags[key].values for key in keys])),
        lengths=torch.from_numpy(lengths.reshape(-1)),
        stride=stride,
    )
    return Batch(features, num_lists, num_samples, parts, histories)


def _even(num_rows: int, num_parts: int) -> tuple[int, ...]:
    """Return the sizes of so many parts, or fewer where some would be empty."""
    return Parts.even(num_rows, rank=0, world_size=max(1, min(num_parts, num_rows))).counts


def _bounds(counts: Sequence[int]) -> list[slice]:
    return [slice(*bounds) for bounds in itertools.pairwise(itertools.accumulate(counts, initial=0))]


def _distinct(history: Ragged, times: Ragged | None) -> tuple[Ragged, Histories]:
    """Return one bag for each distinct item, and where the lists' items are among them."""
    items, places = np.unique(history.values, return_inverse=True)
    time_T = None if times is None else torch.from_numpy(times.values)
    histories = Histories(torch.from_numpy(places), torch.from_numpy(history.lengths), time_T)
    return Ragged.from_lengths(items, np.ones(len(items), dtype=np.int64)), histories
