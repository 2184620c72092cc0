"""Who calls, and which jobs they may see. Pure."""

from dataclasses import dataclass

from mlxmesh_jobs.domain.jobs import Job, Owner
from mlxmesh_shared.errors import JobNotFound


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The caller of a method."""

    owner: Owner

    @property
    def sees_all(self) -> bool:
        """Whether it sees the jobs of others too."""
        return self.owner.is_admin

    def check(self, job: Job) -> Job:
        """The job. Raises: JobNotFound if it is another caller's."""
        if self.sees_all or job.owner.principal == self.owner.principal:
            return job
        raise unknown_job(job.job_id)


def unknown_job(job_id: str) -> JobNotFound:
    """What a caller gets for a job that is not there, or is not its own."""
    return JobNotFound(f"there is no job {job_id}, or it is another caller's", field="job_id")
