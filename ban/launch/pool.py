"""Stages in fresh processes on this machine: teachers before students, several at a time."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from ban.errors import Interrupted, UserError
from ban.events import Event, Report
from ban.machine import Machine, Signals
from ban.plan import Stage

Failures = dict[str, str]
"""Signature → reason."""

STOPPED = "stopped by a signal"


@dataclass
class _Child:
    stage: Stage
    process: ForkServerProcess
    events: Any  # the reading end of a pipe
    reason: str = ""


class Pool:
    """Runs each missing stage once, as soon as its teachers are there. A failure fails only its descendants.

    Every stage has its own process, forked from a server that has torch loaded, so a crash or an exhausted memory takes
    nothing else along. No process outlives this one.
    """

    def __init__(self, missing: Sequence[Stage], machine: Machine, slots: int, report: Report) -> None:
        self.waiting = {stage.signature: stage for stage in missing}
        self.machine, self.slots, self.report = machine, slots, report
        self.running: list[_Child] = []
        self.failures: Failures = {}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["ban.run", "ban.data", "ban.models"])

    def run(self) -> Failures:
        """Runs everything that can be run.

        Raises:
            Interrupted: a signal arrived; all stages have saved where they stand.
        """
        with Signals().caught() as signals:
            while self.waiting or self.running:
                if not signals.number:
                    self._start_what_is_ready()
                self._listen()
                if signals.number and not self._stop():
                    signals.check()
        return self.failures

    def _start_what_is_ready(self) -> None:
        for stage in list(self.waiting.values()):
            parents = [parent.signature for parent in stage.parents]
            if lost := [parent for parent in parents if parent in self.failures]:
                del self.waiting[stage.signature]
                self._fail(stage, f"its teacher {lost[0]} failed")
            elif len(self.running) < self.slots and not self._pending(parents):
                del self.waiting[stage.signature]
                self._start(stage)

    def _pending(self, signatures: Sequence[str]) -> bool:
        running = {child.stage.signature for child in self.running}
        return any(signature in self.waiting or signature in running for signature in signatures)

    def _start(self, stage: Stage) -> None:
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_train, args=(stage, self.machine, sender))
        process.start()
        sender.close()
        self.running.append(_Child(stage, process, receiver))

    def _listen(self) -> None:
        """Passes events on; returns after half a second at the latest."""
        ready = wait([child.events for child in self.running], timeout=0.5)
        for child in [child for child in self.running if child.events in ready]:
            try:
                event: Event = child.events.recv()
            except EOFError:
                self._ended(child)
            else:
                if event.kind == "failed":
                    child.reason = str(event.values["reason"])
                else:
                    self.report(event)

    def _ended(self, child: _Child) -> None:
        child.process.join()
        child.events.close()
        self.running.remove(child)
        code = child.process.exitcode or 0
        if code < 0 and not child.reason:
            child.reason = f"killed by {signal.Signals(-code).name} (out of memory?)"
        if code and child.reason != STOPPED:
            self._fail(child.stage, child.reason or f"ended with status {code}")

    def _fail(self, stage: Stage, reason: str) -> None:
        self.failures[stage.signature] = reason
        self.report(Event(stage.signature, "failed", {"reason": reason}))

    def _stop(self) -> bool:
        """Asks the running stages to stop; whether any still runs."""
        self.waiting.clear()
        for child in self.running:
            if not child.reason:
                child.reason = STOPPED
                child.process.terminate()
        return bool(self.running)


def _train(stage: Stage, machine: Machine, events: Any) -> None:
    """The life of a child process."""
    from ban.run import run

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signals = Signals()
    signal.signal(signal.SIGTERM, signals.note)
    try:
        run(stage, machine, events.send, signals)
    except Interrupted as stop:
        os._exit(128 + stop.signal_number)
    except UserError as error:
        events.send(Event(stage.signature, "failed", {"reason": str(error)}))
        raise SystemExit(1) from None
    except Exception:
        events.send(Event(stage.signature, "failed", {"reason": traceback.format_exc()}))
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
