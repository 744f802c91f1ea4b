"""One small bundle for all tests of the serving room: 1,000 items, so that it has IVF indexes."""

import pytest
from ladders import with_three_steps

from recsys.bundle import Bundle, open_current
from recsys.testing import small_bundle
from serving.engine import Engine


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    small_bundle(root, num_items=1000)
    return root


@pytest.fixture(scope="session")
def bundle(bundles) -> Bundle:
    return with_three_steps(open_current(bundles))


@pytest.fixture
def engine(bundle) -> Engine:
    """A new one for each test, since an engine learns how fast it really is."""
    return Engine(bundle)
