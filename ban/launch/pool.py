"""Trains stages in processes on this machine: teachers before students, several at a time."""

import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import TextIOWrapper
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from ban.errors import Interrupted, UserError
from ban.events import Event, Failed, Failures, Finished, Report, Stopped, Waiting
from ban.launch import server
from ban.launch.devices import Slot
from ban.launch.journal import Journal, JournalReport, report_failures
from ban.plan.stage import Stage
from ban.store.result import outcome
from ban.training.bundle import FEWEST, carries, optimizer_of, take_together
from ban.training.loop import Steps
from ban.training.run import Host, run, steps_to_result
from ban.training.signals import Signals

STOPPED = "stopped by a signal"
UNKNOWN = 255
"""Exit status that `multiprocessing` gives a process when the server that forked it is gone."""
STOP_SECONDS = 60.0
"""The longest time to wait for the checkpoints of stopped stages."""


@dataclass
class _Child:
    stage: Stage
    slot: Slot
    process: ForkServerProcess
    events: Any  # the reading end of a pipe
    reason: str = ""
    heard: float = math.inf
    """Time of its last event. Infinite before the first: it may have to wait for a download."""
    finished: bool = False
    busy: bool = False
    """Whether another command began the stage first."""
    saved: bool = False
    """Whether it has stopped, and only trackers are left to be told."""
    kind: Hashable = None
    """What the stages of its bundle have in common; None: it trains alone. Each of them is a child of one process."""

    def signal(self, number: signal.Signals) -> None:
        """Signals the process. `Process.kill` does nothing once the server that forked it is gone."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


class Pool:
    """Trains each missing stage once, as soon as its teachers are finished. A failure fails only its descendants.

    Every stage has its own process, forked from a server that has torch loaded, so a crash or an exhausted memory
    affects no other stage. Small stages of one kind share a process, as a bundle; if it crashes, each goes on alone. No
    process outlives this one. No slot is held for a stage that another command trains.
    """

    def __init__(
        self,
        missing: Sequence[Stage],
        host: Host,
        slots: Sequence[Slot],
        report: Report,
        stall_timeout: float | None = None,
        kinds: Mapping[str, Hashable] | None = None,
        largest_bundle: int = 1,
    ) -> None:
        """`kinds`: signature → what stages must have in common to be trained as a bundle in one process."""
        self.kinds, self.largest_bundle, self.parts = kinds or {}, largest_bundle, len(slots)
        self.alone: set[Hashable] = set()
        """Kinds that cannot be bundled, or whose process died."""
        self.waiting = {stage.signature: stage for stage in missing}
        """In the order of preference."""
        self.host, self.report, self.stall_timeout = host, report, stall_timeout
        self.free = list(slots)
        self.running: list[_Child] = []
        self.stop_by = math.inf
        """Time after which stages that have not stopped are killed."""
        self.failures: Failures = {}
        self.store, self.journal = host.store, Journal(host.store)
        self.context = multiprocessing.get_context("forkserver")
        server.start(missing)

    def run(self) -> Failures:
        """Trains all stages that can be trained.

        Raises:
            Interrupted: a signal arrived; all running stages have saved a checkpoint.
        """
        with Signals().caught() as signals:
            try:
                while self.waiting or self.running:
                    if not signals.number:
                        self._start_ready()
                    self._listen()
                    self._kill_stalled()
                    if signals.number and not self._stop():
                        signals.check()
            finally:
                self._kill_all()
        return self.failures

    def _kill_all(self) -> None:
        """After an error in this process: children that write to a full pipe would never end."""
        for child in self.running:
            child.signal(signal.SIGKILL)
            child.process.join()
            child.events.close()

    def _start_ready(self) -> None:
        for stage in list(self.waiting.values()):
            parents = [parent.signature for parent in stage.parents]
            if stage.signature not in self.waiting:  # it has joined a bundle
                continue
            if lost := [parent for parent in parents if parent in self.failures]:
                del self.waiting[stage.signature]
                self._fail(stage, f"its teacher {lost[0]} failed")
            elif self.free and not self._pending(parents):
                self._start_or_wait(stage)

    def _pending(self, signatures: Sequence[str]) -> bool:
        running = {child.stage.signature for child in self.running}
        return any(signature in self.waiting or signature in running for signature in signatures)

    def _start_or_wait(self, stage: Stage) -> None:
        """Starts a stage, unless another command trains it or has trained it."""
        if self.store.has(stage.signature):
            del self.waiting[stage.signature]
            try:
                result = self.store.result(stage.signature)
            except UserError as error:
                self._fail(stage, str(error))
            else:
                self.report(Finished(stage.signature, outcome(result)))
        elif self.store.is_claimed(stage.signature):
            self.report(Waiting(stage.signature))
        else:
            self._start(self._bundle_of(stage), self.free.pop(0))

    def _bundle_of(self, stage: Stage) -> list[Stage]:
        """The stages to train together with this one: an equal part for each slot."""
        kind = self.kinds.get(stage.signature)
        if kind is None or kind in self.alone:
            return [stage]
        alike = [
            each for each in self.waiting.values() if self.kinds.get(each.signature) == kind and self._is_free(each)
        ]
        running = sum(self.kinds.get(child.stage.signature) == kind for child in self.running)
        size = min(math.ceil((len(alike) + running) / self.parts), self.largest_bundle)
        return alike[:size] if min(size, len(alike)) >= FEWEST else [stage]

    def _is_free(self, stage: Stage) -> bool:
        """Whether a stage can be trained now."""
        taken = self.store.has(stage.signature) or self.store.is_claimed(stage.signature)
        return not taken and not self._pending([parent.signature for parent in stage.parents])

    def _start(self, stages: Sequence[Stage], slot: Slot) -> None:
        for stage in stages:
            del self.waiting[stage.signature]
        pipes = [self.context.Pipe(duplex=False) for _ in stages]
        senders = [sender for _, sender in pipes]
        kind = self.kinds[stages[0].signature] if len(stages) > 1 else None
        device = self.host.device
        if slot.visible is not None:
            device = replace(device, name="cuda")  # the only one that the process sees
        host = self.host._replace(device=device)
        alone, together = (_train, (stages[0], host, slot, *senders)), (_train_bundle, (stages, host, slot, senders))
        target, arguments = together if kind else alone
        process = self.context.Process(target=target, args=arguments)
        server.ensure()
        try:
            process.start()
        except (EOFError, ConnectionError):
            self.free.append(slot)
            for stage in stages:
                self._fail(stage, "the process that starts trainings was killed (out of memory?)")
        else:
            for stage, (receiver, _) in zip(stages, pipes, strict=True):
                self.running.append(_Child(stage, slot, process, receiver, kind=kind))
        finally:
            for sender in senders:
                sender.close()

    def _listen(self) -> None:
        """Reports the children's events. Returns after half a second at the latest."""
        ready = wait([child.events for child in self.running], timeout=0.5)
        for child in [child for child in self.running if child.events in ready]:
            try:
                event: Event = child.events.recv()
            except EOFError:
                self._ended(child)
            else:
                child.heard = time.monotonic()
                match event:
                    case Failed(_, reason):
                        child.reason = reason
                    case Waiting():
                        child.busy = True
                    case _:
                        child.finished, child.saved = isinstance(event, Finished), isinstance(event, Stopped)
                        self.report(event)

    def _ended(self, child: _Child) -> None:
        child.process.join()
        child.events.close()
        self.running.remove(child)
        if all(other.process is not child.process for other in self.running):
            self.free.append(child.slot)
        if child.finished:
            return
        died = child.kind is not None and not child.reason and not child.saved and not child.busy
        if died:
            self.alone.add(child.kind)
        if died or child.busy or self.store.has(child.stage.signature):
            self.waiting[child.stage.signature] = child.stage
        elif child.reason != STOPPED:
            self._fail(child.stage, child.reason or _ending(child.process.exitcode or 0))

    def _kill_stalled(self) -> None:
        for child in self.running:
            silence = time.monotonic() - max(other.heard for other in self.running if other.process is child.process)
            if self.stall_timeout and silence > self.stall_timeout:
                child.reason = f"it reported no progress for {silence:.0f} s (hydra.launcher.stall_timeout)"
                child.signal(signal.SIGKILL)

    def _fail(self, stage: Stage, reason: str) -> None:
        self.failures[stage.signature] = reason
        JournalReport(self.journal, stage, "", 0.0, self.report)(Failed(stage.signature, reason))

    def _stop(self) -> bool:
        """Asks the running stages to stop, and kills those that do not. Returns whether any still runs."""
        self.waiting.clear()
        self.stop_by = min(self.stop_by, time.monotonic() + STOP_SECONDS)
        late = time.monotonic() > self.stop_by
        for child in self.running:
            if late:
                if not child.saved:
                    child.reason = f"it did not stop within {STOP_SECONDS:.0f} s; it resumes from its last checkpoint"
                child.signal(signal.SIGKILL)
            elif not child.reason:
                child.reason = STOPPED
                child.signal(signal.SIGTERM)
                child.signal(signal.SIGCONT)  # a suspended process handles no signal
        return bool(self.running)


def _ending(status: int) -> str:
    """How a process without a result ended."""
    if status == UNKNOWN:
        return "it ended without a result, after the process that started it had been killed (out of memory?)"
    return f"killed by {signal.Signals(-status).name} (out of memory?)" if status < 0 else f"ended with status {status}"


def _prepare(slot: Slot) -> Signals:
    """Prepares a child process. Returns its signals."""
    if slot.visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.visible  # CUDA reads this when it is first used
    for number in (signal.SIGINT, signal.SIGHUP):  # they reach the whole process group: the parent decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    gc.freeze()  # collections need not look through the modules
    signals = Signals()
    signal.signal(signal.SIGTERM, signals.note)
    return signals


def _train(stage: Stage, host: Host, slot: Slot, events: Any) -> None:
    """The main function of a child process."""
    signals, journal = _prepare(slot), Journal(host.store)

    def send(event: Event) -> None:
        events.send(event)
        if isinstance(event, Waiting):
            os._exit(0)  # the parent can use the slot for another stage

    noted = JournalReport(journal, stage, slot.name, host.machine.log_seconds, send)
    try:
        with report_failures(send, stage):  # the parent writes the note, because it also does after a crash
            _send_output_to(journal, stage)
            run(stage, host, noted, signals)
    except Interrupted as stop:
        os._exit(128 + stop.signal_number)
    except UserError:
        raise SystemExit(1) from None
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


class _Busy(Exception):
    """Another command trains the stage."""


def _train_bundle(stages: Sequence[Stage], host: Host, slot: Slot, pipes: Sequence[Any]) -> None:
    """The main function of a child process for several stages. It ends at once if they cannot be a bundle."""
    signals, journal = _prepare(slot), Journal(host.store)
    _send_output_to(journal, stages[0])
    host = host._replace(machine=replace(host.machine, compile=False))
    if not carries(stages[0], host.device):
        return
    trainings = {
        stage.signature: _member(stage, host, slot, events, signals)
        for stage, events in zip(stages, pipes, strict=True)
    }
    take_together(trainings, optimizer_of(stages[0]))
    if signals.number:
        os._exit(128 + signals.number)


def _member(stage: Stage, host: Host, slot: Slot, events: Any, signals: Signals) -> Steps[None]:
    """The training of one stage of a bundle. Its failure leaves the others alone."""
    journal = Journal(host.store)

    def send(event: Event) -> None:
        events.send(event)
        if isinstance(event, Waiting):
            raise _Busy

    noted = JournalReport(journal, stage, slot.name, host.machine.log_seconds, send)
    try:
        with report_failures(send, stage):
            yield from steps_to_result(stage, host, noted, signals)
    except (Interrupted, UserError):
        pass
    except _Busy:
        pass
    except Exception:
        traceback.print_exc()


def _send_output_to(journal: Journal, stage: Stage) -> None:
    """Redirects the output of this process, including that of libraries and crashes, to the stage's log."""
    journal.append(stage.signature, f"process {os.getpid()}")
    with suppress(OSError), journal.log(stage.signature).open("a") as log:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # None where it is closed
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
                os.dup2(log.fileno(), stream.fileno())


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
