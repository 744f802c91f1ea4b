"""A client for programs that change the catalogue between bundles.

::

    with CatalogueClient("localhost:50051") as catalogue:
        catalogue.upsert([item("new-1", title="A film", features={"genre": ["drama", "war"]})])
        catalogue.delete(["old-7"])

When a call returns, every search that starts from then on sees what it did. Answers are the messages of
``protos/serving/v1/catalogue.proto``, whose comments say what each field means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from serving.client import Connection, feature_values
from serving.security import ClientSecurity
from serving.v1 import catalogue_pb2 as pb
from serving.v1.catalogue_pb2_grpc import CatalogueServiceStub

__all__ = ["CatalogueClient", "item"]


class CatalogueClient(Connection):
    """A connection to one server that was started with a folder for changes; see `Connection`.

    Raises (from every call):
        RequestError: the server refused the request; it names the field, and nothing was changed.
        ServingError: the call failed otherwise; with FAILED_PRECONDITION a new bundle is due, with UNIMPLEMENTED the
            server takes no changes. After DEADLINE_EXCEEDED or UNAVAILABLE the change may hold or not: calling again
            with the same items does no harm.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline_ms: float | None = None,
        options: Sequence[tuple[str, int]] = (),
        security: ClientSecurity | None = None,
    ) -> None:
        super().__init__(address, deadline_ms=deadline_ms, options=options, security=security)
        self._stub = CatalogueServiceStub(self._channel)

    def upsert(self, items: Iterable[pb.CatalogueItem], *, deadline_ms: float | None = None) -> pb.UpsertItemsResponse:
        """Put items in, built with `item`, or in the place of those with their ids."""
        return self._call(self._stub.UpsertItems, pb.UpsertItemsRequest(items=items), deadline_ms)

    def delete(self, item_ids: Iterable[str], *, deadline_ms: float | None = None) -> pb.DeleteItemsResponse:
        """Take items out."""
        return self._call(self._stub.DeleteItems, pb.DeleteItemsRequest(item_ids=item_ids), deadline_ms)

    def describe(self, *, deadline_ms: float | None = None) -> pb.DescribeCatalogueResponse:
        """Say what the catalogue holds."""
        return self._call(self._stub.DescribeCatalogue, pb.DescribeCatalogueRequest(), deadline_ms)


def item(
    item_id: str,
    *,
    title: str | None = None,
    features: Mapping[str, str | Sequence[str]] | None = None,
    vector: Iterable[float] = (),
) -> pb.CatalogueItem:
    """Build an item from features (one value or several by name) or from a vector of full width."""
    return pb.CatalogueItem(id=item_id, title=title, features=feature_values(features or {}), vector=vector)
