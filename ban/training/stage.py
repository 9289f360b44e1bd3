"""One stage: resume it if it was begun, train, evaluate, publish."""

import functools
import gc
import json
import pickle
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

import ban
from ban import metrics
from ban.errors import Interrupted, UserError
from ban.events import Event, Report
from ban.interfaces import Progress
from ban.plan.stage import Parent, Stage
from ban.store.store import Store, Work
from ban.training import build, evaluation
from ban.training.loop import Best, Position, Training
from ban.training.machine import Machine, Signals

CHECKPOINT_FORMAT = 3
"""Raised when a checkpoint holds something else than before."""


def run(stage: Stage, machine: Machine, report: Report, signals: Signals) -> dict[str, Any]:
    """The stage's result: from the store, or by training it.

    Raises:
        UserError: it cannot be trained as asked.
        Interrupted: a signal arrived; a checkpoint is saved.
    """
    store = Store(machine.outputs)

    def waiting() -> None:
        report(Event(stage.signature, "waiting", {}))
        signals.check()

    if not store.has(stage.signature):
        signals.check()
        with store.claim(stage.signature, waiting) as work:
            if work is not None:
                _train(stage, machine, store, work, report, signals)
    result = store.result(stage.signature)
    report(Event(stage.signature, "finished", {"outcome": outcome(stage, result)}))
    return result


def outcome(stage: Stage, result: Mapping[str, Any]) -> str:
    """A finished stage's result in a few words."""
    if stage.is_pretraining:
        return "the beginning is done"
    metric = stage.dataset.metric
    return metrics.describe("test", metric, result[f"test_{metric}"])


def _train(stage: Stage, machine: Machine, store: Store, work: Work, report: Report, signals: Signals) -> None:
    try:
        _Trainer(stage, machine, store, work, report, signals).train_and_publish()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{stage.label} does not fit into the memory of {machine.device}: lower recipe.batch_size (of a text, "
            "recipe.unroll), or set model.checkpointing=true for a DenseNet."
        ) from error
    finally:
        gc.collect()  # trainer and loop know each other: free the device before the next stage


class _Trainer:
    """What surrounds one training in this process: between the store and the loop."""

    def __init__(
        self, stage: Stage, machine: Machine, store: Store, work: Work, report: Report, signals: Signals
    ) -> None:
        self.stage, self.machine, self.store, self.work = stage, machine, store, work
        self.report, self.signals = report, signals
        self.device, self.metric = machine.prepare(), stage.dataset.metric
        self.loaded: list[nn.Module] = []
        recipe = stage.recipe
        self.follow = f"validation_{self.metric}" if recipe.select else None
        self.precision = functools.partial(machine.precision, recipe.precision)
        self.data = build.data(stage, machine, self.device)
        learners, teacher = build.assemble(
            stage, self._load, self.device, self.data.spelling, stage.training_examples, self.data
        )
        for learner in learners:
            learner.optimizer = build.optimizer(stage, learner)
        self.training = Training(
            key=stage.stream_key,
            learners=learners,
            teacher=teacher,
            data=self.data,
            schedule=build.build(recipe.schedule),
            precision=self.precision,
            evaluate=self._evaluate,
            on_step=self._on_step,
            on_epoch=self._on_epoch,
            position=Position(Progress(0, 0, self.data.steps_per_epoch, recipe.epochs)),
            beta1=build.build(recipe.beta1) if recipe.beta1 else None,
            count_errors=self.metric == "error_percent" and not stage.is_pretraining,
            diagnosed_steps=recipe.diagnosed_steps if self._compares_with_labels() else 0,
            follow=self.follow,
        )
        for network in [*self.training.networks().values(), *self.loaded]:
            machine.accelerate(network)
        self.scalars = _scalars(machine, stage)

    def _compares_with_labels(self) -> bool:
        """Whether a trained teacher's opinion of labelled examples can be taken apart."""
        stage = self.stage
        return bool(stage.teachers) and not stage.is_pretraining and not stage.dataset.unlabelled_examples

    def train_and_publish(self) -> None:
        """All of it.

        Raises:
            Interrupted: a signal arrived; the checkpoint is written.
        """
        self.work.write_json("stage.json", self.stage.describe())
        damaged = self._resume()
        remark = {"remark": f"damaged and not used: {', '.join(damaged)}"} if damaged else {}
        self.report(Event(self.stage.signature, "started", {"at": self._at(), **remark}))
        self._checkpointed = now = time.monotonic()
        self._told = {"step": now, "epoch": now}
        try:
            self.training.fit()
            networks = self._networks()
            result = self._result(networks)
        except Interrupted:
            self._checkpoint()
            self.report(Event(self.stage.signature, "stopped", {"at": self._at()}))
            raise
        self._write_curves()
        if self.data.vocabulary:  # the weights' rows are its lines
            text = "\n".join(self.data.vocabulary) + "\n"
            self.work.write("vocabulary.txt", lambda path: path.write_text(text, encoding="utf-8"))
        for name, network in networks.items():
            tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
            self.work.write(weights_file(name), functools.partial(save_file, tensors))
        self.work.publish(result)

    # What the loop calls

    def _on_step(self, position: Position) -> None:
        self.training.tick()
        self.signals.check()
        if self.training.started - self._checkpointed >= self.machine.checkpoint_seconds:
            self._checkpoint()
        self._tell("step", {})

    def _on_epoch(self, record: dict[str, float]) -> None:
        if self.scalars:
            for name, value in record.items():
                self.scalars.add_scalar(name, value, int(record["epoch"]))
        self._tell("epoch", record)

    def _breathe(self) -> None:
        """Between two batches of an evaluation."""
        self.signals.check()
        self._tell("step", {})

    def _tell(self, kind: Literal["step", "epoch"], record: Mapping[str, float]) -> None:
        """A sign of life, twice a second at most of each kind."""
        now = time.monotonic()
        if now - self._told[kind] >= 0.5:
            speed = f"{self._examples_per_second():.0f} {self.data.examples}/s"
            values = {"at": self._at(), "speed": speed, **record}
            self.report(Event(self.stage.signature, kind, values))
            self._told[kind] = now

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        """What is due after this epoch; the last one's tests come with the result."""
        every, epoch = self.stage.recipe.evaluate_every, progress.epoch + 1
        due = every and not epoch % every and epoch < progress.epochs
        splits = self.data.held_out if due else ["validation"] if self.follow else []
        if not splits or self.stage.is_pretraining:
            return {}
        networks = self.training.networks()
        measured = [evaluation.measure(self._predict(networks[name], splits)) for name in self.stage.reported_networks]
        return {name: value for name, value in evaluation.mean(measured).items() if name.endswith(self.metric)}

    def _predict(self, network: nn.Module, splits: Iterable[str]) -> dict[str, metrics.Predictions]:
        return {split: evaluation.predict(network, self.data, split, self.precision, self._breathe) for split in splits}

    # The store

    def _load(self, parent: Parent) -> nn.Module:
        """A trained network, rebuilt from the plan, never from what a stored file says."""
        path = self.store.file(parent.stage.signature, weights_file(parent.network))
        try:
            self.loaded.append(self._network(parent, load_file(path)))
        except (RuntimeError, SafetensorError) as error:  # of a stage that somebody made by hand
            raise UserError(
                f"{path} does not fit {parent.stage.model.title}: {str(error).splitlines()[-1].strip()}."
            ) from error
        return self.loaded[-1]

    def _network(self, which: Parent, state: Mapping[str, torch.Tensor]) -> nn.Module:
        network = build.network(which.stage, which.index, self.data.spelling)
        network.load_state_dict(state)
        return network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _resume(self) -> list[str]:
        """Goes on from the latest checkpoint that is whole; the names of those that were not.

        Raises:
            UserError: it is not one of this version's.
        """
        path, damaged = self.work.latest_checkpoint()
        if path is None:
            return damaged
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError):  # whole, but not written by us
            state = {}
        if state.get("format") != CHECKPOINT_FORMAT:
            raise UserError(
                f"{path} was written by another version of ban: finish the stage with that one, or remove "
                f"{path.parent} to begin it anew."
            )
        for learner, saved in zip(self.training.learners, state["learners"], strict=True):
            learner.load_state_dict(saved)
        self.training.teacher.load_state_dict(state["teacher"])
        position = self.training.position
        position.progress = position.progress._replace(epoch=state["epoch"], step=state["step"])
        position.sums, position.curves, position.seconds = state["sums"], state["curves"], state["seconds"]
        position.best = Best(*state["best"]) if state["best"] else None
        return damaged

    def _checkpoint(self) -> None:
        position = self.training.position
        position.check_finite()  # waits for the device
        state = {
            "format": CHECKPOINT_FORMAT,
            "learners": [learner.state_dict() for learner in self.training.learners],
            "teacher": self.training.teacher.state_dict(),
            "epoch": position.progress.epoch,
            "step": position.progress.step,
            "sums": position.sums,
            "curves": position.curves,
            "seconds": position.seconds,
            "best": tuple(position.best) if position.best else None,
        }
        self.work.write_checkpoint(self._steps(), functools.partial(torch.save, state))
        self._write_curves()
        self._checkpointed = self.training.started = time.monotonic()  # writing is not training

    def _write_curves(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self.training.position.curves)
        self.work.write("curves.jsonl", lambda path: path.write_text(lines))

    # The result

    def _at(self) -> float:
        """The finished part of the training."""
        return self.training.position.progress.fraction

    def _steps(self) -> int:
        """The finished ones."""
        progress = self.training.position.progress
        return progress.epoch * progress.steps_per_epoch + progress.step

    def _examples_per_second(self) -> float:
        """Training images, rows or words per second of training time, over all processes that took part."""
        return self._steps() * self.data.examples_per_step / max(1e-9, self.training.position.seconds)

    def _networks(self) -> dict[str, nn.Module]:
        """The trained networks: the last epoch's, or those of the best validation epoch and the `last` ones too."""
        last, best = self.training.networks(), self.training.position.best
        if best is None or best.epoch == self.stage.recipe.epochs:
            return last
        # New ones: an interrupt must find the last ones in their places.
        chosen = {name: self._network(Parent(self.stage, name), state) for name, state in best.networks.items()}
        return chosen | {_last(name): network for name, network in last.items()}

    def _result(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        stage, position = self.stage, self.training.position
        return {
            **stage.identity(),
            "parameters": sum(p.numel() for learner in self.training.learners for p in learner.network.parameters()),
            "seconds": round(position.seconds, 3),
            f"{self.data.examples}_per_second": round(self._examples_per_second(), 1),
            "peak_memory_mib": self.machine.peak_memory_mib(),
            **({} if stage.is_pretraining else self._measured(networks)),
            "device": self.machine.device,
            "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": self.machine.threads,
            "versions": {"ban": ban.__version__, "torch": torch.__version__, "commit": _commit()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _measured(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Metrics of every network, the reported ones on all splits, and the predictions to store."""
        stage, position = self.stage, self.training.position
        measured, tested = {}, []
        for name, network in networks.items():
            reported_networks = name in stage.reported_networks
            spoken = self._predict(network, [*self.data.held_out, *(["train"] if reported_networks else [])])
            measured[name] = evaluation.measure(spoken)
            if reported_networks:
                tested.append(spoken["test"])
        self.work.write("predictions.safetensors", functools.partial(save_arrays, dict(tested[0])))
        headline = evaluation.mean([measured[name] for name in stage.reported_networks])
        if len(tested) > 1:
            measured["ensemble"] = evaluation.measure({"test": metrics.ensemble(tested)})
        last = [measured[_last(name)] for name in stage.reported_networks if _last(name) in measured]
        at_the_end = evaluation.mean(last) if last else headline
        position.curves[-1] |= {name: value for name, value in at_the_end.items() if not name.startswith("train")}
        selected = {"selected_epoch": position.best.epoch} if position.best else {}
        return headline | selected | _best(position.curves, self.metric) | {"networks": measured}


def _last(name: str) -> str:
    """What a network's last epoch is called where a better one was chosen."""
    return "last" if name == "0" else f"{name}.last"


def weights_file(network: str) -> str:
    """The file of one of a stage's networks."""
    return "weights.safetensors" if network == "0" else f"weights.{network}.safetensors"


def _best(curves: list[dict[str, float]], metric: str) -> dict[str, Any]:
    """The best epochs on the test and on the validation set, labelled as such: never the headline by themselves."""
    best = {}
    for split in ("test", "validation"):
        name = f"{split}_{metric}"
        measured = [record for record in curves if name in record]
        if len(measured) > 1:
            chosen = min(measured, key=lambda record: record[name])
            kept = {key: value for key, value in chosen.items() if key.endswith(metric)}
            best[f"best_on_{split}"] = {"epoch": chosen["epoch"], **kept}
    return best


def _scalars(machine: Machine, stage: Stage) -> Any:
    """A TensorBoard writer, if one is asked for."""
    if not machine.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "machine.tensorboard=true needs the package tensorboard: pip install 'ban[tensorboard]'."
        ) from error
    return SummaryWriter(str(machine.outputs / "tensorboard" / f"{stage.label} {stage.signature}"))


@functools.cache
def _commit() -> str | None:
    """The git commit of this checkout, if it is one, and whether it has local changes."""
    root = Path(__file__).parents[2]
    if not (root / "conf").exists():  # installed: the folder above may belong to any repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
