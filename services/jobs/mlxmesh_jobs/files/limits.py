"""How large files may be, and who may make which. Pure."""

from dataclasses import dataclass
from enum import IntEnum

from mlxmesh_shared.errors import FilesFull, InvalidArgument, MessageTooLarge

MAX_BATCH_BYTES = 209_715_200
"""As in the contract, and OpenAI's."""
JOB_RETENTION_S = 30 * 86_400
"""Of a file that a job makes, unless its worker says otherwise."""


class Purpose(IntEnum):
    """As in FilePurpose; stored."""

    BATCH = 1
    BATCH_OUTPUT = 2
    USER_DATA = 3
    JOB_OUTPUT = 4


OF_CALLERS = frozenset({Purpose.BATCH, Purpose.USER_DATA})
"""What callers may make files for; the others are made by jobs."""


@dataclass(frozen=True, kw_only=True)
class FileLimits:
    """The limits of single files and jobs; that of a principal's files is the store's."""

    max_file_bytes: int
    max_output_bytes: int
    """Of all files that one job makes."""

    def max_bytes(self, purpose: int) -> int:
        """The largest file for a purpose."""
        if purpose == Purpose.BATCH:
            return min(self.max_file_bytes, MAX_BATCH_BYTES)
        return self.max_file_bytes

    def check_size(self, purpose: int, size_bytes: int) -> None:
        """Raises: MessageTooLarge."""
        most = self.max_bytes(purpose)
        if size_bytes > most:
            raise MessageTooLarge(f"the file is too large; at most {most} bytes are accepted")

    def check_outputs(self, size_bytes: int) -> None:
        """Checks the size of all files that one job made. Raises: FilesFull."""
        if size_bytes > self.max_output_bytes:
            raise FilesFull(
                f"the files of the job are too large; at most {self.max_output_bytes} bytes are"
                " kept, which the setting max_output_bytes of the jobs service changes"
            )


def checked_purpose(number: int, *, by_worker: bool) -> Purpose:
    """What a new file is for. Raises: InvalidArgument for what its maker may not make."""
    made = OF_CALLERS if not by_worker else frozenset({Purpose.JOB_OUTPUT})
    if number not in made:
        names = " or ".join(f"FILE_PURPOSE_{one.name}" for one in sorted(made))
        raise InvalidArgument(f"purpose must be {names}", field="purpose")
    return Purpose(number)
