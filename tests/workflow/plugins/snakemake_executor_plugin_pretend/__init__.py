"""An executor on this machine whose jobs take half a second and leave empty outputs: for what starts beside what."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=False,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(RealExecutor):
    """Pretends to run jobs."""

    def run_job(self, job: JobExecutorInterface) -> None:
        info = SubmittedJobInfo(job)
        self.report_job_submission(info)
        threading.Timer(0.5, self._finish, [info]).start()

    def _finish(self, info: SubmittedJobInfo) -> None:
        for output in filter(None, [*info.job.output, info.job.benchmark]):
            made = Path(output)
            made.parent.mkdir(parents=True, exist_ok=True)
            if output.is_directory:
                made.mkdir(exist_ok=True)
            else:
                made.touch()
        self.report_job_success(info)

    @property
    def cores(self) -> Any:
        return self.workflow.resource_settings.cores

    def get_exec_mode(self) -> Any:
        raise NotImplementedError  # no job has a Snakemake of its own

    def get_python_executable(self) -> str:
        raise NotImplementedError

    def cancel(self) -> None:
        """Jobs end by themselves."""

    def shutdown(self) -> None:
        """Nothing is kept."""
