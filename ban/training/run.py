"""One stage: resumes it from a checkpoint if there is one, trains, evaluates and publishes it.

Weights from a file are a training of no epochs, which starts from them and has no checkpoint.
"""

import functools
import gc
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

from ban import metrics
from ban.errors import Interrupted, UserError
from ban.events import Finished, Noted, Report, Started, Stopped, Waiting, Warned
from ban.interfaces import Progress
from ban.plan.identity import description_of
from ban.plan.stage import Parent, Stage
from ban.settings.schema import Machine
from ban.store.formats import TERMS, weights_file
from ban.store.result import Result, doubt, outcome
from ban.store.store import Store, Work
from ban.trackers.run import Run
from ban.trackers.tracking import Tracking
from ban.training import build, checkpoint, evaluation, memory
from ban.training.compilation import Compilation
from ban.training.device import Device, is_out_of_memory
from ban.training.from_file import load_weights
from ban.training.loop import Steps, Training, TrainingState, alone
from ban.training.measure import check_stored, last_epoch, measure, result
from ban.training.progress import ProgressReporter
from ban.training.signals import Signals
from ban.training.step import Objective


class Host(NamedTuple):
    """Where a process trains."""

    machine: Machine
    device: Device
    store: Store


def run(stage: Stage, host: Host, report: Report, signals: Signals) -> Result:
    """The stage's result: from the store, or by training it.

    Raises:
        UserError: the stage cannot be trained as its settings say.
        Interrupted: a signal arrived; a checkpoint is saved.
    """
    return alone(steps_to_result(stage, host, report, signals))


def steps_to_result(stage: Stage, host: Host, report: Report, signals: Signals) -> Steps[Result]:
    """The same step by step, for a caller that takes the steps.

    Raises:
        UserError: the stage cannot be trained as its settings say.
        Interrupted: a signal arrived; a checkpoint is saved.
    """
    store = host.store

    def wait() -> None:
        report(Waiting(stage.signature))
        signals.check()

    if not store.has(stage.signature):
        signals.check()
        with store.claim(stage.signature, wait) as work:
            if work is not None:
                yield from _train(stage, host, work, report, signals)
    stored = store.result(stage.signature)
    report(Finished(stage.signature, outcome(stored) + doubt(stored, stage.dataset.classes)))
    return stored


def _train(stage: Stage, host: Host, work: Work, report: Report, signals: Signals) -> Steps[None]:
    stage, reason = memory.fitted(stage, host.device)
    if not (yield from _fits(stage, host, work, report, signals, reason)):
        gc.collect()  # what the error held
        reason = f"a training step does not fit into the memory of {host.device.name}: {memory.RECOMPUTED}"
        yield from _fits(memory.decided(stage), host, work, report, signals, reason)


def _fits(stage: Stage, host: Host, work: Work, report: Report, signals: Signals, reason: str) -> Steps[bool]:
    """Trains the stage. False: its activations have to be recomputed, which its settings leave open.

    `reason` says why they are, if they are.
    """
    try:
        if reason:
            report(Warned(stage.signature, reason))
        yield from _StageTraining(stage, host, work, report, signals).train_and_publish()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if memory.is_undecided(stage):
            return False
        raise UserError(
            f"{stage.label} does not fit into the memory of {host.device.name}: lower recipe.batch_size (for a text, "
            "recipe.unroll), or set model.checkpointing=true for a DenseNet."
        ) from error
    finally:
        gc.collect()  # the training and its callbacks refer to each other: free the device before the next stage
    return True


class _StageTraining:
    """One training in this process, between the store and the loop."""

    def __init__(self, stage: Stage, host: Host, work: Work, report: Report, signals: Signals) -> None:
        self.stage, self.host, self.work, self.report, self.signals = stage, host, work, report, signals
        self.device = host.device.prepare()
        host.device.check_precision(stage.recipe.precision, stage.dataset.is_text)
        self.metric = stage.dataset.metric
        self.data = build.data(stage, host.machine, self.device)
        self.loaded: list[nn.Module] = []
        step = build.training_step(stage, self._load, host.device, self.data.spelling, self.data)
        for learner in step.learners:
            if any(term.pretrained for term in learner.objective.terms.values()):
                self._inherit_terms(learner.objective, stage.inherits[0].parent)
        self.training = Training(
            key=stage.stream_key,
            step=step,
            data=self.data,
            state=TrainingState(Progress(0, 0, self.data.steps_per_epoch, stage.epochs)),
            evaluate=self._evaluate,
            on_step=self._after_step,
            on_epoch=self._after_epoch,
            selection_metric=f"validation_{self.metric}" if stage.recipe.select else None,
        )
        self.compilation = Compilation(
            host.machine, host.device, step, [*step.networks().values(), *self.loaded], self._note
        )
        self.progress = ProgressReporter(stage.signature, self.training.state, self.data, report)

    def train_and_publish(self) -> Steps[None]:
        """Resumes or starts the training, and publishes its networks and result.

        Raises:
            Interrupted: a signal arrived; the checkpoint is saved.
        """
        signature, state = self.stage.signature, self.training.state
        description = description_of(self.stage)
        self.work.write_json("stage.json", description)
        damaged = self._begin()
        self.report(Started(signature, state.progress.fraction))
        if damaged:
            self._warn(f"ignored damaged checkpoints: {', '.join(damaged)}")
        run = Run.of(description, self.stage.origin.signature)
        with Tracking(self.host.machine, run, state.curves, self._warn_of_a_tracker) as self.tracking:
            self.checkpointed = time.monotonic()
            yield from self._train_and_publish()

    def _warn(self, text: str) -> None:
        self.report(Warned(self.stage.signature, text))

    def _note(self, text: str) -> None:
        self.report(Noted(self.stage.signature, text))

    def _warn_of_a_tracker(self, text: str) -> None:
        self._warn(f"warning: {text}; the training goes on without it")

    def _train_and_publish(self) -> Steps[None]:
        signature, state = self.stage.signature, self.training.state
        try:
            self.compilation.begin(state)
            yield from self.training.fit()
            networks = self._store_networks()
            measured = {} if self.stage.is_pretraining else self._measure(networks)
        except Interrupted:
            if self.stage.epochs:
                self._checkpoint()
            self.report(Stopped(signature, state.progress.fraction))
            raise
        self._write_curves()
        if self.data.vocabulary:  # line n is the word of row n of the weights
            text = "\n".join(self.data.vocabulary) + "\n"
            self.work.write("vocabulary.txt", lambda path: path.write_text(text, encoding="utf-8"))
        published = result(self.stage, self.training, self.host.device, measured)
        self.work.publish(published)
        self.tracking.finish(self.host.store.folder(signature), published)

    def _begin(self) -> list[str]:
        """Resumes the training, or reads the weights. Returns the names of damaged checkpoints."""
        if self.stage.weights is None:
            return checkpoint.resume(self.training, self.work, self.device)
        load_weights(self.training.step.learners[0].network, self.stage)
        return []

    # Callbacks of the loop

    def _after_step(self, state: TrainingState) -> None:
        self.training.add_elapsed()
        self.compilation.after_step()
        self.signals.check()
        if self.training.clock - self.checkpointed >= self.host.machine.checkpoint_seconds:
            self._checkpoint()
        self.progress.after_step()

    def _after_epoch(self, record: dict[str, float]) -> None:
        self.tracking.after_epoch()
        self.progress.after_epoch(record)

    def _between_evaluation_batches(self) -> None:
        self.signals.check()
        self.progress.after_step()

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        """The metrics that are due after this epoch. Those after the last epoch come with the result."""
        every, epoch = self.stage.recipe.evaluate_every, progress.epoch + 1
        due = every and not epoch % every and epoch < progress.epochs
        splits = self.data.held_out if due else ["validation"] if self.training.selection_metric else []
        if not splits or self.stage.is_pretraining:
            return {}
        networks = self.training.step.networks()
        measured = [evaluation.measure(self._predict(networks[name], splits)) for name in self.stage.reported_networks]
        return {name: value for name, value in evaluation.mean(measured).items() if name.endswith(self.metric)}

    def _predict(self, network: nn.Module, splits: Iterable[str]) -> dict[str, metrics.Predictions]:
        check = self._between_evaluation_batches
        return {split: evaluation.predict(network, self.data, split, check) for split in splits}

    # Files

    def _load(self, parent: Parent) -> nn.Module:
        """A trained network, rebuilt from the plan, not from what a stored file says."""
        path = self.host.store.file(parent.stage.signature, weights_file(parent.network))
        try:
            self.loaded.append(self._network(parent, load_file(path)))
        except (RuntimeError, SafetensorError) as error:  # of a stage that was made by hand
            raise UserError(
                f"{path} does not fit {parent.stage.model.title}: {str(error).splitlines()[-1].strip()}."
            ) from error
        return self.loaded[-1]

    def _inherit_terms(self, loss: Objective, parent: Parent) -> None:
        path = self.host.store.file(parent.stage.signature, weights_file(TERMS))
        try:
            build.inherit_terms(loss, load_file(path))
        except (ValueError, SafetensorError) as error:  # of a stage that was made by hand
            raise UserError(f"{path} cannot be used: {error}.") from error

    def _network(self, parent: Parent, state: Mapping[str, torch.Tensor]) -> nn.Module:
        network = build.network(parent.stage, parent.index, self.data.spelling)
        network.load_state_dict(state)
        return network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _checkpoint(self) -> None:
        checkpoint.save(self.training, self.work)
        self._write_curves()
        self.checkpointed = self.training.clock = time.monotonic()  # writing does not count as training time

    def _write_curves(self) -> None:
        self.work.write_curves(self.training.state.curves)

    # The result

    def _store_networks(self) -> dict[str, nn.Module]:
        """Writes the weights, and rebuilds the networks from the files, so that the result is that of the files."""
        networks: dict[str, nn.Module] = {}
        for name, state in self._weights().items():
            tensors = {key: tensor.contiguous() for key, tensor in state.items()}
            self.work.write(weights_file(name), functools.partial(save_file, tensors))
            networks[name] = self._network(Parent(self.stage, name), load_file(self.work.folder / weights_file(name)))
        if terms := build.stored_terms(self.stage, self.training.step):
            self.work.write(weights_file(TERMS), functools.partial(save_file, terms))
        return networks

    def _weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """The weights to publish: the last epoch's, or those of the best validation epoch and the last ones too."""
        best = self.training.state.best
        last = {name: network.state_dict() for name, network in self.training.step.networks().items()}
        if best is None or best.epoch == self.stage.epochs:
            return last
        return best.networks | {last_epoch(name): state for name, state in last.items()}

    def _measure(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """The metrics of the stored networks, checked against those in training. Writes the predictions."""
        measured, predictions = measure(self.stage, networks, self.data, self.training.state, self._predict)
        name, trained = self._metric_in_training()
        check_stored(measured[name], trained, name)
        self.work.write("predictions.safetensors", functools.partial(save_arrays, dict(predictions)))
        return measured

    def _metric_in_training(self) -> tuple[str, float]:
        """A metric and its value for the networks in training: that of the selection, or the test metric."""
        if best := self.training.state.best:
            return f"validation_{self.metric}", best.value
        networks, name = self.training.step.networks(), f"test_{self.metric}"
        reported = [self._predict(networks[each], ["test"]) for each in self.stage.reported_networks]
        return name, evaluation.mean([*map(evaluation.measure, reported)])[name]
