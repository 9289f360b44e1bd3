"""One stage: resume it if it was begun, train, evaluate, publish."""

import functools
import gc
import json
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import nn

import ban
from ban import build, metrics
from ban.errors import Interrupted, UserError
from ban.events import Event, Report
from ban.interfaces import Progress
from ban.machine import Machine, Signals
from ban.plan import Parent, Stage
from ban.store import Store, Work
from ban.streams import stream
from ban.train import Position, Training, reseed

CHECKPOINT = "checkpoint.pt"


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
    report(Event(stage.signature, "finished", {"error": result["test_error_percent"]}))
    return result


def _train(stage: Stage, machine: Machine, store: Store, work: Work, report: Report, signals: Signals) -> None:
    try:
        _Trainer(stage, machine, store, work, report, signals).train_and_publish()
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{stage.label} does not fit into the memory of {machine.device}: lower recipe.batch_size, or set "
            "model.checkpointing=true for a DenseNet."
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
        self.device = machine.prepare()
        recipe = stage.recipe
        self.precision = functools.partial(machine.precision, recipe["precision"])
        self.data = build.build(
            stage.dataset,
            batch_size=recipe["batch_size"],
            steps_per_epoch=recipe.get("steps_per_epoch"),
            data_dir=machine.data_dir,
            download=machine.download,
            device=self.device,
        )
        reseed(stream(*stage.key, "initial"))
        self.learner = build.learner(stage, self.device)
        guides = [self._load(parent) for parent in stage.teachers]
        self.training = Training(
            key=stage.key,
            learners=[self.learner],
            teacher=build.teacher(stage, guides),
            data=self.data,
            schedule=build.build(recipe["schedule"]),
            precision=self.precision,
            evaluate=self._evaluate,
            on_step=self._on_step,
            on_epoch=self._on_epoch,
            position=Position(Progress(0, 0, self.data.steps_per_epoch, recipe["epochs"])),
        )
        for network in [self.learner.network, *guides]:
            machine.accelerate(network)
        self.scalars = _scalars(machine, stage)

    def train_and_publish(self) -> None:
        """All of it.

        Raises:
            Interrupted: a signal arrived; the checkpoint is written.
        """
        self.work.write_json("stage.json", self.stage.describe())
        self._resume()
        values = {"label": self.stage.label, "epochs": self.stage.recipe["epochs"], "at": self._at()}
        self.report(Event(self.stage.signature, "started", values))
        self._checkpointed = now = time.monotonic()
        self._told = {"step": now, "epoch": now}
        try:
            self.training.fit()
            result = self._result()
        except Interrupted:
            self._checkpoint()
            raise
        self._write_curves()
        tensors = {name: tensor.contiguous() for name, tensor in self.learner.network.state_dict().items()}
        self.work.write("weights.safetensors", functools.partial(save_file, tensors))
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

    def _tell(self, kind: Literal["step", "epoch"], record: Mapping[str, float]) -> None:
        """A sign of life, twice a second at most of each kind."""
        now = time.monotonic()
        if now - self._told[kind] >= 0.5:
            values = {"at": self._at(), "images_per_second": self._images_per_second(), **record}
            self.report(Event(self.stage.signature, kind, values))
            self._told[kind] = now

    def _evaluate(self, progress: Progress) -> dict[str, float]:
        """Errors after this epoch, if it is one of those after which the recipe wants them; the last comes anyway."""
        every, epoch = self.stage.recipe["evaluate_every"], progress.epoch + 1
        if not every or epoch % every or epoch == progress.epochs:
            return {}
        return {f"{split}_error_percent": metrics.error_percent(*self._predict(split)) for split in self._splits()}

    # The store

    def _load(self, parent: Parent) -> nn.Module:
        """A trained network, rebuilt from the plan, never from what a stored file says."""
        network = build.network(parent.stage)
        network.load_state_dict(load_file(self.store.folder(parent.stage.signature) / "weights.safetensors"))
        return network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def _resume(self) -> None:
        path = self.work.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        for learner, saved in zip(self.training.learners, state["learners"], strict=True):
            learner.load_state_dict(saved)
        self.training.teacher.load_state_dict(state["teacher"])
        position = self.training.position
        position.progress = position.progress._replace(epoch=state["epoch"], step=state["step"])
        position.sums, position.curves, position.seconds = state["sums"], state["curves"], state["seconds"]

    def _checkpoint(self) -> None:
        position = self.training.position
        position.check_finite()  # waits for the device
        state = {
            "learners": [learner.state_dict() for learner in self.training.learners],
            "teacher": self.training.teacher.state_dict(),
            "epoch": position.progress.epoch,
            "step": position.progress.step,
            "sums": position.sums,
            "curves": position.curves,
            "seconds": position.seconds,
        }
        self.work.write(CHECKPOINT, functools.partial(torch.save, state))
        self._write_curves()
        self._checkpointed = self.training.started = time.monotonic()  # writing is not training

    def _write_curves(self) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in self.training.position.curves)
        self.work.write("curves.jsonl", lambda path: path.write_text(lines))

    # The result

    def _at(self) -> float:
        """The finished part of the training."""
        return self.training.position.progress.fraction

    def _images_per_second(self) -> float:
        """Training images per second of training time, over all processes that took part."""
        position = self.training.position
        steps = position.progress.epoch * position.progress.steps_per_epoch + position.progress.step
        return steps * self.data.batch_size / max(1e-9, position.seconds)

    def _splits(self) -> list[str]:
        return ["test", "validation"] if len(self.data.splits.validation.labels) else ["test"]

    @torch.no_grad()
    def _predict(self, split: str) -> tuple[metrics.LogProbabilities, np.ndarray]:
        network = self.learner.network.eval()
        outputs, targets = [], []
        for batch in self.data.evaluation(split):
            self.signals.check()
            with self.precision():
                logits = network(batch.views[0]).logits
            outputs.append(logits.float().log_softmax(-1))
            targets.append(batch.targets)
        return torch.cat(outputs).cpu().numpy(), torch.cat(targets).cpu().numpy()

    def _result(self) -> dict[str, Any]:
        stage, position = self.stage, self.training.position
        measured: dict[str, Any] = {}
        for split in [*self._splits(), "train"]:
            log_probabilities, targets = self._predict(split)
            if not np.isfinite(log_probabilities).all():
                raise UserError("the trained network's outputs are not finite: lower recipe.optimizer.lr.")
            measured[f"{split}_error_percent"] = metrics.error_percent(log_probabilities, targets)
            measured[f"{split}_nll"] = metrics.negative_log_likelihood(log_probabilities, targets)
            if split == "test":
                arrays = {"log_probabilities": log_probabilities, "targets": targets}
                self.work.write("predictions.safetensors", functools.partial(save_arrays, arrays))
        position.curves[-1] |= {name: measured[name] for name in measured if not name.startswith("train")}
        return {
            **stage.identity(),
            "parameters": sum(parameter.numel() for parameter in self.learner.network.parameters()),
            "seconds": round(position.seconds, 3),
            "images_per_second": round(self._images_per_second(), 1),
            **measured,
            **_best(position.curves),
            "networks": {"0": measured},
            "device": self.machine.device,
            "device_name": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": self.machine.threads,
            "versions": {"ban": ban.__version__, "torch": torch.__version__, "commit": _commit()},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _best(curves: list[dict[str, float]]) -> dict[str, Any]:
    """The best epochs by test and by validation error, labelled as such: the headline is always the last epoch."""
    best = {}
    for split in ("test", "validation"):
        name = f"{split}_error_percent"
        measured = [record for record in curves if name in record]
        if len(measured) > 1:
            chosen = min(measured, key=lambda record: record[name])
            kept = {key: value for key, value in chosen.items() if key.endswith("_error_percent")}
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
    root = Path(__file__).parents[1]
    if not (root / "conf").exists():  # installed: the folder above may belong to any repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
