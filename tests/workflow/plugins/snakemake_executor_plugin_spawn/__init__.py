"""An executor that runs jobs as a cluster does: each in a Snakemake of its own, by the command that Snakemake makes."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncGenerator

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(RemoteExecutor):
    """Starts a job's command and waits for it."""

    def run_job(self, job: JobExecutorInterface) -> None:
        status = subprocess.run(self.format_job_exec(job), shell=True, check=False).returncode
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=str(job.jobid), aux={"status": status}))

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        for info in active_jobs:
            if info.aux and info.aux["status"] == 0:
                self.report_job_success(info)
            else:
                self.report_job_error(info)
        for still_running in list[SubmittedJobInfo]():  # none: `run_job` waits
            yield still_running

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """All have ended."""
