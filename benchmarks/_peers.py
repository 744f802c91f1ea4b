"""Other libraries' recommenders behind one small interface: settings to try, and a training that stops for checkpoints.

What ranks in each is an inner product, as far as there is one: biases become one more dimension, and a distance that
orders as an inner product does is written as one. Libraries are imported only where they are asked to train.

Shapes: ``UI`` (users, items), sparse, of ones: who chose what. ``user_UX`` and ``item_NX`` are what is multiplied.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from benchmarks._course import Course

Settings = Mapping[str, Any]
SEED = 1
DIMENSIONS = 64
_ENDLESS = 1_000_000
"""Passes: the course ends them."""


class Peer(ABC):
    """A way of another library to learn vectors."""

    name: ClassVar[str]
    distribution: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    """What has to be installed, and is imported before the clock runs."""
    install: ClassVar[str] = "pip install 'matryoshka-recsys[peers]'"
    trial_share: ClassVar[float] = 1.0
    """Of the seconds of a trial: less where that is enough to see where it ends."""

    @abstractmethod
    def settings(self) -> Sequence[Settings]:
        """Return the settings to try."""

    @abstractmethod
    def train(self, course: Course, chosen: sparse.csr_matrix, settings: Settings, *, num_threads: int) -> None:
        """Learn from ``chosen`` (UI) until the course ends it."""

    def missing(self) -> str | None:
        """Say why this cannot run here; None if it can."""
        packages = dict.fromkeys(module.partition(".")[0] for module in self.modules)
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(absent)} not installed ({self.install})" if absent else None

    def load(self) -> None:
        """Import everything, which is no part of training."""
        for module in self.modules:
            importlib.import_module(module)

    def version(self) -> str:
        """Return the library's version."""
        return importlib.metadata.version(self.distribution)


class _Implicit(Peer):
    distribution: ClassVar[str] = "implicit"
    modules: ClassVar[tuple[str, ...]] = ("implicit.cpu.als", "implicit.cpu.bpr", "threadpoolctl")

    @abstractmethod
    def model(self, settings: Settings, *, num_threads: int) -> Any:
        """Return an untrained model."""

    def train(self, course: Course, chosen: sparse.csr_matrix, settings: Settings, *, num_threads: int) -> None:
        """Fit with a checkpoint after each iteration; BPR's factors have their biases beside them already."""
        from threadpoolctl import threadpool_limits

        # Its own threads each call BLAS, which must not start more; and checks on making a model that it does not.
        with threadpool_limits(1, "blas"):
            model = self.model(settings, num_threads=num_threads)

            def after_iteration(*_: Any) -> None:
                course.checkpoint(lambda: (np.asarray(model.user_factors), np.asarray(model.item_factors)))

            model.fit(chosen, show_progress=False, callback=after_iteration)


class ImplicitALS(_Implicit):
    """Weighted matrix factorisation by alternating least squares, conjugate gradients as is its default."""

    name: ClassVar[str] = "implicit ALS"
    trial_share: ClassVar[float] = 0.4

    def settings(self) -> Sequence[Settings]:
        """Vary the weight of what was chosen beside all else, and regularisation, both far above their defaults."""
        return [
            {"alpha": alpha, "regularization": decay}
            for alpha, decay in itertools.product((30.0, 60.0, 120.0), (10.0, 40.0, 80.0, 150.0))
        ]

    def model(self, settings: Settings, *, num_threads: int) -> Any:
        """Return one for the processor."""
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(
            factors=DIMENSIONS, iterations=_ENDLESS, num_threads=num_threads, random_state=SEED, **settings
        )


class ImplicitBPR(_Implicit):
    """Bayesian personalised ranking by stochastic gradients."""

    name: ClassVar[str] = "implicit BPR"

    def settings(self) -> Sequence[Settings]:
        """Vary regularisation about the default (.01), and the rate above its own (.01), which takes long."""
        return [
            {"learning_rate": rate, "regularization": decay}
            for rate, decay in itertools.product((0.05, 0.1), (0.003, 0.01, 0.03))
        ]

    def model(self, settings: Settings, *, num_threads: int) -> Any:
        """Return one for the processor."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        return BayesianPersonalizedRanking(
            factors=DIMENSIONS, iterations=_ENDLESS, num_threads=num_threads, random_state=SEED, **settings
        )


class LightFM(Peer):
    """LightFM's WARP loss, by the fork that is still released."""

    name: ClassVar[str] = "LightFM WARP"
    distribution: ClassVar[str] = "lightfm-next"
    modules: ClassVar[tuple[str, ...]] = ("lightfm",)

    def settings(self) -> Sequence[Settings]:
        """Vary Adagrad's rate about the default (.05) and how long a violating negative is looked for (10)."""
        return [
            {"learning_rate": rate, "max_sampled": most}
            for rate, most in itertools.product((0.02, 0.05, 0.1), (10, 50))
        ]

    def train(self, course: Course, chosen: sparse.csr_matrix, settings: Settings, *, num_threads: int) -> None:
        """Fit one epoch at a time, a checkpoint after each."""
        import lightfm

        model = lightfm.LightFM(no_components=DIMENSIONS, loss="warp", random_state=SEED, **settings)
        pairs = chosen.tocoo()

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            bias_N, item_ND = model.get_item_representations()
            _, user_UD = model.get_user_representations()  # a user's bias ranks nothing
            return np.hstack([user_UD, np.ones((len(user_UD), 1), np.float32)]), np.hstack([item_ND, bias_N[:, None]])

        for _ in range(_ENDLESS):
            model.fit_partial(pairs, epochs=1, num_threads=num_threads)
            course.checkpoint(vectors)


class RecToolsDSSM(Peer):
    """RecTools' two towers with a triplet loss, its own data set and module under PyTorch Lightning, at its defaults.

    An item's features are its id alone, a user's are one constant: who they are is in their interactions, which the
    user tower reads.
    """

    name: ClassVar[str] = "RecTools DSSM"
    distribution: ClassVar[str] = "rectools"
    modules: ClassVar[tuple[str, ...]] = ("pytorch_lightning", "rectools.models.nn.dssm")
    # On Pythons before 3.13 its metadata ask for NumPy below 2, with which nothing else here runs.
    install: ClassVar[str] = "its requirements exclude this project's: CONTRIBUTING.md says how to install it"

    def settings(self) -> Sequence[Settings]:
        """Vary nothing: a trial would be over after an epoch or two."""
        return [{"lr": 0.01, "triplet_loss_margin": 0.4, "batch_size": 128}]

    def train(self, course: Course, chosen: sparse.csr_matrix, settings: Settings, *, num_threads: int) -> None:
        """Fit with a checkpoint after each epoch, which has one positive and one negative per user."""
        del num_threads  # torch's, which are set already
        import pytorch_lightning as lightning
        from rectools.dataset.torch_datasets import DSSMItemDataset, DSSMTrainDataset, DSSMUserDataset
        from rectools.models.nn.dssm import DSSM
        from torch.utils.data import DataLoader

        lightning.seed_everything(SEED, verbose=False)
        given, size = dict(settings), settings["batch_size"]
        del given["batch_size"]
        items = sparse.identity(chosen.shape[1], dtype=np.float32, format="csr")
        users = sparse.csr_matrix(np.ones((chosen.shape[0], 1), np.float32))
        sizes = {"dim_input_user": 1, "dim_input_item": items.shape[1], "dim_interactions": items.shape[1]}
        module = DSSM(n_factors_user=DIMENSIONS, n_factors_item=DIMENSIONS, log_to_prog_bar=False, **sizes, **given)

        def vectors() -> tuple[np.ndarray, np.ndarray]:
            user_UD = module.inference_users(DataLoader(DSSMUserDataset(users, chosen), batch_size=size))
            item_ND = module.inference_items(DataLoader(DSSMItemDataset(items), batch_size=size))
            module.train()
            return nearest_as_largest(user_UD, item_ND)

        after_epoch = lightning.callbacks.LambdaCallback(on_train_epoch_end=lambda *_: course.checkpoint(vectors))
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=_ENDLESS, enable_checkpointing=False, callbacks=[after_epoch], **quiet
        )
        known = np.flatnonzero(np.diff(chosen.indptr))  # it refuses users who chose nothing
        rows = DSSMTrainDataset(items=items, users=users[known], interactions=chosen[known])
        trainer.fit(module, DataLoader(rows, batch_size=size, shuffle=True))


def nearest_as_largest(user_UD: np.ndarray, item_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of one dimension more, whose inner products order items as nearness to the user does."""
    user_UX = np.hstack([2 * user_UD, np.full((len(user_UD), 1), -1, user_UD.dtype)])
    return user_UX, np.hstack([item_ND, np.square(item_ND).sum(axis=1, keepdims=True)])


PEERS: tuple[type[Peer], ...] = (ImplicitALS, ImplicitBPR, LightFM, RecToolsDSSM)
