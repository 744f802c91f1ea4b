"""The training loop: examples, one step, validation, checkpoints, early stop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor

from recsys.command import err, out
from recsys.config import TrainConfig
from recsys.data.batches import TrainingEvents
from recsys.data.dataset import Dataset
from recsys.data.negatives import Negatives, NegativeSampler, WholeCatalogue
from recsys.data.prefetch import prefetched
from recsys.errors import ConfigError, Interrupted, TrainingError
from recsys.model.best import TOWERS, save_towers
from recsys.model.layout import Layout
from recsys.model.losses.gather import gather_rows
from recsys.model.losses.samples import Samples
from recsys.model.two_tower import Batch
from recsys.settings import to_mapping
from recsys.train.checkpoint import export_towers, load_checkpoint, save_checkpoint
from recsys.train.checks import check_divides, check_readable
from recsys.train.claim import claim, write_identity, write_whole, writing
from recsys.train.diagnosis import DIVERGED, save_step
from recsys.train.inputs import Inputs, InputsMaker
from recsys.train.interrupt import Interrupt
from recsys.train.noise import silenced
from recsys.train.pipeline import pipelined
from recsys.train.plan import Plan, plan_tables
from recsys.train.pretrained import read_pretrained
from recsys.train.process import Process, joined, may_hang_when_restarted
from recsys.train.progress import Reporter
from recsys.train.run_folder import PLAN, newest_checkpoint
from recsys.train.sharding import shard
from recsys.train.tracking import Kind, Tracker, check_trackers, figures_of, open_trackers
from recsys.train.validation import Validation
from recsys.train.watch import StepWatch

_T = TypeVar("_T")

_AHEAD = 2
"""Batches that are made before they are asked for."""

_FREE_TO_CHANGE = ("config.epochs", "config.patience")
"""Settings that a resumed run may change: they say when to stop, not what is learned. Where rates fall, they fall to
nothing by the last epoch, so its number is part of what is learned."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train on, where to, and how."""

    dataset: Path
    """Folder that `recsys prepare` wrote."""
    out: Path
    """Run folder to write."""
    resume: bool = False
    """Go on from the newest checkpoint in the run folder, or from the start where there is none yet."""
    checkpoint_every: int | None = None
    """Write a checkpoint after this many steps, beside the one after each epoch."""
    allow_changes: bool = False
    """Go on with other settings than the run was started with; the pass that was under way starts over."""
    track: tuple[Kind, ...] = ("tensorboard",)
    """Where each epoch's figures go beside the run's own record: ``tensorboard``, and ``mlflow`` where the extra
    ``tracking`` is installed."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Model, loss and optimization."""

    def __post_init__(self) -> None:
        if self.checkpoint_every is not None and self.checkpoint_every <= 0:
            raise ConfigError(f"checkpoint_every: got {self.checkpoint_every}, expected above 0")
        check_trackers(self.track)


RESUME = "--resume"
"""The option that goes on with a run."""

_REQUIRED: Any = tyro.MISSING
TRAIN_DEFAULTS = TrainOptions(dataset=_REQUIRED, out=_REQUIRED)
"""For command lines, which must give the two folders."""


def train(options: TrainOptions) -> Path:
    """Train until validation stops improving (or, if it is trained on too, to the last epoch); return the run folder.

    Run by plain Python this is one process; run by torchrun, one of many that share tables and examples.

    Raises:
        ArtifactError: the dataset is unusable, or the run folder already holds a run and ``resume`` is off.
        DataError: the dataset lacks what the model reads (an order, times, features of items), or pretrained vectors
            are not of its items.
        ConfigError: a setting is out of range, or CUDA was asked for where there is none.
        TrainingError: too few examples, nothing to resume, settings that differ from the run's, or a loss that is not
            finite.
        Interrupted: Ctrl-C (SIGINT) came; after a checkpoint, from which ``resume`` goes on to the same losses.
    """
    dataset = Dataset(options.dataset)
    with silenced(), joined(options.config.device) as process:
        Trainer(options, dataset, process).run()
    return options.out


class Trainer:
    """One run, as seen from one process."""

    def __init__(self, options: TrainOptions, dataset: Dataset, process: Process) -> None:
        self.options, self.config, self.process = options, options.config, process
        self.run_folder = options.out
        self.dataset_name, self.fingerprint = dataset.name, dataset.manifest["fingerprint"]
        model = self.config.model
        check_divides(self.config.batch_size, process.world_size)
        check_readable(self.config, dataset)
        self.widths = model.ladder
        self.layout = Layout(
            config=model, num_items=dataset.num_items, num_users=dataset.num_users, specs=dataset.specs
        )
        plan = plan_tables(self.layout, self.config, process)
        is_new = newest_checkpoint(self.run_folder) is None
        pretrained = read_pretrained(self.config, dataset) if is_new else None
        # What changes in the course of training, over a share of it, depends on how long it is meant to be.
        is_open_ended = self.config.rate_schedule == "constant" and self.config.loss.energy_ramp == 0
        free = [name for name in _FREE_TO_CHANGE if name != "config.epochs" or is_open_ended]
        changes = claim(
            self.run_folder,
            self._identity(),
            resume=options.resume,
            allow_changes=options.allow_changes,
            free=free,
            process=process,
        )
        self._announce(plan)
        self.user_features, self.item_features = dataset.feature_lists("user"), dataset.feature_lists("item")
        self.validation = Validation(dataset, self.config)
        self.events = TrainingEvents(
            dataset,
            longest=model.longest_history,
            by_position=model.history == "sequence",
            single_events=self.config.rows == "event",
            max_events_per_user=self.config.max_events_per_user,
            include_validation=self.config.include_validation,
            half_life=self.config.recency_half_life,
            seed=self.config.seed,
        )
        self.steps_per_epoch = self.events.steps_per_epoch(batch_size=self.config.batch_size)
        self.negatives = self._negatives()
        # An item that is never a negative needs no true value, only a finite one.
        tiny = np.finfo(np.float32).tiny
        self._inputs = InputsMaker(
            self.layout,
            np.log(np.maximum(self.negatives.expected, tiny)).astype(np.float32),
            user_features=self.user_features,
            item_features=self.item_features,
            pinned=process.device.type == "cuda",
        )
        self.sharded = shard(self.layout, self.config, process, plan, pretrained=pretrained, initial=is_new)
        self.pipeline = pipelined(self.sharded, process.device, self._forward)
        self.watch = StepWatch()
        started = time.perf_counter()
        self.progress = load_checkpoint(self.run_folder, self.sharded)
        if not is_new:
            self._tell(f"goes on from step {self.progress.total_steps}, read in {time.perf_counter() - started:.1f} s")
        if changes:
            write_identity(self.run_folder, self._identity(), process)
        if any(change.name not in free for change in changes):
            # The batches of the pass that was under way may be others now.
            self.progress.step, self.progress.loss_sums = 0, []

    def _announce(self, plan: Plan) -> None:
        """Say where tables go, and write it down."""
        if self.process.is_first:
            with self._writing(PLAN):
                write_whole(self.run_folder / PLAN, plan.to_json())
            self._tell("\n".join(plan.lines()))
        if may_hang_when_restarted():
            self._tell(
                "workers that are started again may wait for each other for ever: give torchrun on every machine "
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
            )

    def _tell(self, text: str) -> None:
        """Say something to people, once."""
        if self.process.is_first and not out.quiet:
            err.print(text, soft_wrap=True)

    def run(self) -> None:
        """Train to the end: the last epoch, or ``patience`` epochs without a better validation score."""
        with contextlib.ExitStack() as stack:
            reporter = stack.enter_context(Reporter(enabled=self.process.is_first, total_epochs=self.config.epochs))
            interrupt = stack.enter_context(Interrupt(self.process))
            trackers = self._trackers()
            for tracker in trackers:
                stack.callback(tracker.close)
            while self._goes_on():
                record = self._finish_epoch(self._train_epoch(reporter, interrupt))
                reporter.epoch(record, is_best=self.progress.stale_epochs == 0)
                with self._writing("tracking"):
                    for tracker in trackers:
                        tracker.record(figures_of(record), step=self.progress.total_steps)
                if interrupt.requested() and self._goes_on():
                    raise Interrupted(go_on=RESUME)

    def _trackers(self) -> list[Tracker]:
        if not self.process.is_first:
            return []
        step = self.progress.total_steps
        with self._writing("tracking"):
            return open_trackers(self.options.track, self.run_folder, settings=self._identity(), step=step)

    def _writing(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Say what in the run folder could not be written, and what there is to go on from."""
        return writing(self.run_folder / name, last_good=newest_checkpoint(self.run_folder))

    def _goes_on(self) -> bool:
        return self.progress.epoch < self.config.epochs and self.progress.stale_epochs < self.config.patience

    def batches(self) -> Iterator[Inputs]:
        """Yield what is left of this process's batches of the pass that is under way, in the host's memory."""
        examples = self.events.epoch(
            self.progress.epoch,
            batch_size=self.config.batch_size,
            negatives=self.negatives,
            rank=self.process.rank,
            world_size=self.process.world_size,
            skip=self.progress.step,
        )
        return map(self._inputs, examples)

    @property
    def done(self) -> float:
        """Share of training that lies behind, 0 to 1."""
        progress, epochs = self.progress, self.config.epochs
        return progress.epoch / epochs + progress.step / (epochs * self.steps_per_epoch)

    def _train_epoch(self, reporter: Reporter, interrupt: Interrupt) -> dict[str, Any]:
        progress, config = self.progress, self.config
        self.sharded.model.train()
        started, first = time.perf_counter(), progress.step
        progress.loss_sums = progress.loss_sums or [0.0] * len(self.widths)
        # Examples are positives. Where a row's number of them is random, these are expected ones.
        per_step = round(self.events.item_rate.sum() * config.batch_size)
        reporter.start_epoch(
            progress.epoch, num_examples=self.steps_per_epoch * per_step, done=progress.step * per_step
        )
        self.watch = StepWatch()
        with prefetched(self.batches(), ahead=_AHEAD) as made:
            batches = self.watch.waits(made)
            while progress.step < self.steps_per_epoch:
                if config.rate_schedule == "cosine":
                    self.sharded.scale_rates(0.5 * (1 + math.cos(math.pi * self.done)))
                losses = self.step(batches)
                progress.loss_sums = [total + loss for total, loss in zip(progress.loss_sums, losses, strict=True)]
                progress.step += 1
                progress.total_steps += 1
                reporter.step(per_step)
                every, stop = self.options.checkpoint_every, interrupt.requested()
                is_due = stop or (every is not None and progress.total_steps % every == 0)
                if is_due and progress.step < self.steps_per_epoch:
                    save_checkpoint(self.run_folder, self.sharded, progress, self.process)
                    if stop:
                        raise Interrupted(go_on=RESUME)
        seconds = time.perf_counter() - started
        return {
            "epoch": progress.epoch,
            "seconds": seconds,
            "examples_per_s": (progress.step - first) * per_step / seconds,
            **self.watch.figures(self.widths, self.process),
            "loss": self._by_width([total / progress.step for total in progress.loss_sums]),
            "temperature": self._by_width(self.sharded.plain_loss.temperature),
            "weight": self._by_width(self.sharded.plain_loss.weights),
        }

    def step(self, batches: Iterator[Inputs]) -> list[float]:
        """Learn from the next batch; return the loss at each width.

        TorchRec moves up to two batches more to the device, and sends the next one's ids to the processes that hold
        their rows, while this one is worked on.

        Args:
            batches: of one pass, the same at each call; not yet at its end.

        Raises:
            TrainingError: the loss is not finite.
        """
        return self.pipeline.progress(batches)

    def _seed(self) -> None:
        """Let what a step draws depend on nothing that came before: it is the same after a stop, and in all processes.

        `torch.manual_seed` does the same, and looks for who called it each time.
        """
        place = np.random.SeedSequence([self.config.seed, self.progress.epoch, self.progress.step])
        seed = int(place.generate_state(1, np.uint32)[0])
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)

    def _forward(self, inputs: Inputs) -> tuple[Tensor, list[float]]:
        """Return the loss to learn from, and that of each width over all processes."""
        batch, samples = inputs.batch, inputs.samples
        self._seed()
        user_VU, encoded_ED = self.sharded.encode(batch)
        item_SD = gather_rows(encoded_ED, samples.encoded)
        if self.progress.step + 1 == self.steps_per_epoch:
            self.watch.see(user_VU, item_SD, samples)
        loss, loss_L = self.sharded.loss(user_VU, item_SD, samples, done=self.done)
        value, *losses = self.process.mean(torch.cat([loss[None], loss_L]))
        if not math.isfinite(value):
            raise self._diverged(value, losses, batch, samples, {"user_VU": user_VU, "encoded_ED": encoded_ED})
        return loss, losses

    def _diverged(
        self, value: float, losses: list[float], batch: Batch, samples: Samples, vectors: dict[str, Tensor]
    ) -> TrainingError:
        """Keep what led to a loss that is not finite, and say where it is."""
        progress, config = self.progress, self.config
        lookups = {"values": batch.features.values(), "lengths": batch.features.lengths()}
        content = {
            "epoch": progress.epoch,
            "step": progress.step,
            "loss": str(value),
            "loss_by_width": self._by_width([str(loss) for loss in losses]),
            "inputs": batch.features.keys(),
            "parts": {name: list(getattr(samples, name).counts) for name in ("pairs", "vectors", "encoded")},
            "config": to_mapping(config),
        }
        with self._writing(DIVERGED):
            folder = save_step(
                self.run_folder,
                progress.total_steps,
                self.process,
                tensors=lookups | samples.tensors() | vectors,
                content=content,
            )
        return TrainingError(
            f"loss: got {value} at epoch {progress.epoch}, step {progress.step}; lower table_learning_rate (now "
            f"{config.table_learning_rate}) or dense_learning_rate (now {config.dense_learning_rate}). The batch is in "
            f"{folder}"
        )

    def _negatives(self) -> Negatives:
        loss = self.config.loss
        if loss.kind == "full_softmax":
            return WholeCatalogue(self.events.num_items)
        return NegativeSampler(
            self.events.item_rate,
            batch_size=self.config.batch_size,
            num_batch=loss.num_batch_negatives,
            num_uniform=loss.num_uniform_negatives,
            num_popular=loss.num_popular_negatives,
            popularity_power=loss.popularity_power,
        )

    def _finish_epoch(self, record: dict[str, Any]) -> dict[str, Any]:
        """Validate, keep the towers if they are the best so far, count the epoch, write a checkpoint.

        Without validation the last towers are the best.
        """
        progress = self.progress
        self._average()
        towers = export_towers(self.layout, self.sharded, self.process, self.item_features)
        validated = self.validation.of(towers)
        record = record | validated
        score = self.process.broadcast(self.validation.deciding(validated))
        progress.epoch, progress.step, progress.loss_sums = progress.epoch + 1, 0, []
        progress.stale_epochs += 1
        if not self.validation.decides or progress.best is None or score > progress.best:
            progress.best, progress.stale_epochs = score, 0
            if towers is not None:
                with self._writing(TOWERS):
                    save_towers(self.run_folder, towers, self._identity() | {"best": record})
        progress.history.append(record)
        save_checkpoint(self.run_folder, self.sharded, progress, self.process)
        return record

    def _average(self) -> None:
        """Take the weights that an epoch ends with into their mean, if that is what towers are made of."""
        sharded, num_before = self.sharded, self.progress.num_averaged
        self.progress.num_averaged = 0 if sharded.average is None else num_before + 1
        if sharded.average is not None:
            sharded.average.add(sharded.model.state_dict(), num_before=num_before)

    def _by_width(self, values: Sequence[_T]) -> dict[str, _T]:
        return dict(zip(map(str, self.widths), values, strict=True))

    def _identity(self) -> dict[str, Any]:
        return {
            "config": to_mapping(self.config),
            "dataset": self.dataset_name,
            "dataset_fingerprint": self.fingerprint,
        }
