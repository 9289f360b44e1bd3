"""Trains missing stages on this machine: the executors of single commands and of sweeps."""

import gc
from collections.abc import Hashable, Sequence
from dataclasses import replace

from ban.cpus import cpus
from ban.display import console
from ban.errors import UserError
from ban.events import Failures, Report
from ban.launch import overview
from ban.launch.devices import slots
from ban.launch.journal import Journal, JournalReport, report_failures
from ban.launch.live import STARTING
from ban.launch.pool import Pool
from ban.plan.stage import Stage
from ban.settings.schema import LocalLauncherSettings, Settings
from ban.training import build
from ban.training.bundle import MEMBERS, kind
from ban.training.device import Device
from ban.training.run import Host, run
from ban.training.signals import Signals
from ban.wording import plural


class InProcess:
    """Trains one stage after another in this process."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.device = settings, Device.of(settings.machine)

    @property
    def description(self) -> str:
        """See `Executor`."""
        return f"{self.device}"

    @property
    def starting(self) -> str:
        """See `Executor`."""
        return STARTING

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return self.device.torch_device.type

    def check(self, missing: Sequence[Stage]) -> None:
        """See `Executor`."""
        check_precision(missing, self.device)
        overview.confirm(missing, self.device, self.settings.yes, 1)
        build.fetch(missing, self.settings.machine)

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures:
        """See `Executor`."""
        host = Host(self.settings.machine, self.device, journal.store)
        gc.freeze()  # collections need not look through the modules
        gc.set_threshold(1000)  # which the start of the command had raised
        with Signals().caught() as signals, journal.queued(missing):
            for stage in missing:
                noted = JournalReport(journal, stage, self.device.name, host.machine.log_seconds, report)
                try:
                    with report_failures(noted, stage):
                        run(stage, host, noted, signals)
                except UserError as error:
                    raise UserError(f"{error} Log: {journal.log(stage.signature)}.") from error
        return {}


class LocalPool:
    """Trains in several processes on this machine."""

    def __init__(self, settings: Settings, options: LocalLauncherSettings) -> None:
        self.settings, self.options = settings, options
        device = Device.of(settings.machine)
        self.slots = slots(device, options.devices, options.stages_per_device)
        threads = settings.machine.threads or max(1, cpus().count // len(self.slots))
        self.device = replace(device, threads=threads)

    @property
    def description(self) -> str:
        """See `Executor`."""
        devices = ", ".join(dict.fromkeys(slot.name for slot in self.slots))
        return f"{devices} ({len(self.slots)} at a time, {plural(self.device.threads, 'thread')} each; {cpus()})"

    @property
    def starting(self) -> str:
        """See `Executor`."""
        return STARTING

    @property
    def device_type(self) -> str:
        """See `Executor`."""
        return self.device.torch_device.type

    def check(self, missing: Sequence[Stage]) -> None:
        """See `Executor`."""
        check_precision(missing, self.device)
        overview.confirm(missing, self.device, self.settings.yes, len(self.slots))
        build.fetch(missing, self.settings.machine)

    def train(self, missing: Sequence[Stage], journal: Journal, report: Report) -> Failures:
        """See `Executor`."""
        host = Host(self.settings.machine, self.device, journal.store)
        with journal.queued(missing):
            return Pool(missing, host, self.slots, report, self.options.stall_timeout, *self._bundles(missing)).run()

    def _bundles(self, missing: Sequence[Stage]) -> tuple[dict[str, Hashable], int]:
        """Signature → the kind of bundle that the stage can be in, and the largest size of a bundle."""
        chosen = self.options.bundle
        if chosen is False:
            return {}, 1
        device_type = self.device_type if chosen == "auto" else None
        kinds = {stage.signature: kind(stage, self.settings.machine, device_type) for stage in missing}
        return kinds, MEMBERS if chosen == "auto" else chosen


def check_precision(missing: Sequence[Stage], device: Device) -> None:
    """Refuses bf16 where the device cannot compute it, and warns where it is slow."""
    for stage in missing:
        device.check_precision(stage.recipe.precision, stage.dataset.is_text)
    if device.emulates_bf16 and any(stage.recipe.precision == "bf16" for stage in missing):
        console.print("This CPU emulates bf16, which is about ten times slower than recipe.precision=fp32.")
