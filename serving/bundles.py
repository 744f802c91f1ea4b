"""Which bundle is live: the one that CURRENT names, until a newer one has been opened, verified and warmed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from recsys.bundle import Bundle, current_version, open_current
from serving.engine import Engine

_log = logging.getLogger(__name__)


class LiveBundle:
    """The engine that answers now.

    A call takes `engine` once and keeps it, so calls in flight finish on the bundle that they began with.

    Args:
        root: folder of bundles with its CURRENT.
        make_engine: builds an engine from an opened bundle and warms it up.

    Raises:
        ArtifactError: there is no current bundle, or it is damaged.
    """

    def __init__(self, root: Path, make_engine: Callable[[Bundle], Engine]) -> None:
        self._root = root
        self._make_engine = make_engine
        self._reloading = threading.Lock()
        self._engine = make_engine(open_current(root))

    @property
    def engine(self) -> Engine:
        """The live engine."""
        return self._engine

    def reload(self) -> bool:
        """Serve the bundle that CURRENT names now; return whether that is another one than before.

        Raises:
            ArtifactError: the bundle is damaged; the one before stays live.
        """
        with self._reloading:
            before = self._engine.bundle.version
            if current_version(self._root) == before:
                return False
            self._engine = self._make_engine(open_current(self._root))
            _log.info("now serving bundle %s (before: %s)", self._engine.bundle.version, before)
            return True
