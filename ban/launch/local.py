"""Placeholder while the skeleton is tried."""
from hydra.plugins.launcher import Launcher
class LocalLauncher(Launcher):
    def setup(self, *, hydra_context, task_function, config): self.hydra_context=hydra_context; self.config=config
    def launch(self, job_overrides, initial_job_idx): print(len(job_overrides), job_overrides[:3]); return []
