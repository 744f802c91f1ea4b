"""What a server does around its calls."""

import gc
import weakref

from serving.server import spare_collector


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.itself = self


def test_the_collector_frees_what_the_bundle_before_left_and_leaves_the_rest_alone():
    before = Cycle()
    left = weakref.ref(before)
    gc.freeze()
    try:
        del before
        gc.collect()
        assert left() is not None  # what is frozen is not looked at
        spare_collector()
        assert left() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
