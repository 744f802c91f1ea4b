"""A process's part of a step, as TorchRec's pipelines move it to a device ahead of its turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from recsys.data.batches import Examples
from recsys.model.layout import Layout
from recsys.model.losses.samples import Samples, samples_of
from recsys.model.two_tower import Batch, BatchParts, make_batch
from recsys.ragged import Ragged


@dataclass(frozen=True)
class Inputs(Pipelineable):  # type: ignore[misc]  # torchrec has no types
    """What a step looks up, and what its loss knows.

    Args:
        batch: what is looked up.
        samples: what the loss knows of the vectors that come of it.
    """

    batch: Batch
    samples: Samples

    @property
    def features(self) -> KeyedJaggedTensor:
        """What the sharded lookup reads, under the name that it has in a `Batch`: a pipeline sends it ahead."""
        return self.batch.features

    def to(self, device: torch.device, non_blocking: bool = False) -> Inputs:
        """Move to a device."""
        samples = self.samples.each(lambda one: one.to(device, non_blocking=non_blocking))
        return Inputs(self.batch.to(device, non_blocking), samples)

    def pin_memory(self) -> Inputs:
        """Move to memory that a GPU reads by itself, while it computes."""
        return Inputs(self.batch.pin_memory(), self.samples.each(Tensor.pin_memory))

    def record_stream(self, stream: torch.Stream) -> None:
        """Keep the memory until a stream is done with it."""
        self.batch.record_stream(stream)
        for one in self.samples.tensors().values():
            one.record_stream(stream)


class InputsMaker:
    """Makes a step's inputs of its examples.

    Args:
        layout: tables and inputs.
        log_expected_N: ``(items,)`` log of how often each item is expected among a row's negatives.
        user_features: of all users, by name.
        item_features: of all items, by name.
        pinned: whether a GPU will read them.
    """

    def __init__(
        self,
        layout: Layout,
        log_expected_N: Float[np.ndarray, " items"],
        *,
        user_features: Mapping[str, Ragged],
        item_features: Mapping[str, Ragged],
        pinned: bool,
    ) -> None:
        self._layout, self._log_expected_N, self._pinned = layout, log_expected_N, pinned
        self._user_features, self._item_features = user_features, item_features

    def __call__(self, examples: Examples) -> Inputs:
        """Return what a process's part of a batch looks up, and what the loss knows of it, in the host's memory."""
        vectors_B = examples.history.lengths + 1 if self._layout.config.history == "sequence" else 1
        samples = samples_of(examples, self._log_expected_N, user_V=np.repeat(examples.user, vectors_B))
        items = samples.item_S[samples.encoded.own].numpy()
        user_features = {name: lists.take(examples.user) for name, lists in self._user_features.items()}
        item_features = {name: lists.take(items) for name, lists in self._item_features.items()}
        batch = make_batch(
            self._layout,
            self._layout.user_bags(
                examples.history, user_features, examples.user, examples.time, item_features=self._item_features
            ),
            self._layout.item_bags(items, item_features),
            BatchParts(examples.lists, samples.vectors, samples.encoded),
        )
        inputs = Inputs(batch, samples)
        return inputs.pin_memory() if self._pinned else inputs
