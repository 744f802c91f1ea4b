"""Shared by tests of real servers: a small bundle, and connections to the server that a test module starts."""

from __future__ import annotations

import grpc
import pytest

from recsys.testing import small_bundle
from serving.client import Client


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    small_bundle(root, num_items=1000)
    return root


@pytest.fixture(scope="module")
def client(server):
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.address) as connected:
        yield connected
