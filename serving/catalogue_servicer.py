"""The service for changes of the catalogue: decode, call the catalogue, encode; nothing else."""

from __future__ import annotations

import grpc
import numpy as np

from recsys.changes import ChangedItem
from serving.bundles import LiveBundle
from serving.catalogue import Catalogue
from serving.metrics import Metrics
from serving.servicer import KINDS
from serving.v1 import candidates_pb2 as candidates
from serving.v1 import catalogue_pb2 as pb
from serving.v1.catalogue_pb2_grpc import CatalogueServiceServicer


class CatalogueServicer(CatalogueServiceServicer):
    """`CatalogueService` over a catalogue and the live bundle, whose changes are counted."""

    def __init__(self, catalogue: Catalogue, live: LiveBundle, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._live = live
        self._metrics = metrics

    def UpsertItems(self, request: pb.UpsertItemsRequest, context: grpc.ServicerContext) -> pb.UpsertItemsResponse:  # noqa: ARG002, N802
        """Put items in."""
        done = self._catalogue.upsert([_item(item) for item in request.items])
        self._metrics.changed("upsert", len(request.items))
        return pb.UpsertItemsResponse(sequence=done.sequence, num_new=done.num_new, num_replaced=done.num_gone)

    def DeleteItems(self, request: pb.DeleteItemsRequest, context: grpc.ServicerContext) -> pb.DeleteItemsResponse:  # noqa: ARG002, N802
        """Take items out."""
        done = self._catalogue.delete(request.item_ids)
        self._metrics.changed("delete", len(request.item_ids))
        return pb.DeleteItemsResponse(sequence=done.sequence, num_deleted=done.num_gone)

    def DescribeCatalogue(  # noqa: N802
        self,
        request: pb.DescribeCatalogueRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> pb.DescribeCatalogueResponse:
        """Say what the catalogue holds."""
        view = self._live.engine.view()
        limits = self._catalogue.limits
        return pb.DescribeCatalogueResponse(
            bundle_version=view.bundle.version,
            sequence=view.sequence,
            bundle_sequence=self._catalogue.merged_sequence(view.bundle),
            num_items=view.num_items,
            num_bundle_items=len(view.bundle.items),
            num_delta_items=len(view.items),
            num_tombstones=len(view.delta.hidden),
            max_delta_items=limits.max_delta_items,
            max_changes=limits.max_changes,
            item_features=[
                candidates.ItemFeature(name=spec.name, kind=KINDS[spec.kind], values=spec.values)
                for spec in view.bundle.towers.specs
                if spec.side == "item"
            ],
        )


def _item(message: pb.CatalogueItem) -> ChangedItem:
    return ChangedItem(
        id=message.id,
        title=message.title if message.HasField("title") else None,
        features={name: list(values.values) for name, values in message.features.items()},
        vector_D=np.array(message.vector, dtype=np.float32) if message.vector else None,
    )
