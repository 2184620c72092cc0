"""MCP servers, their tools, and records of calls. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256


class Access(IntEnum):
    """Who may use the tools of a server; numbered as on the wire."""

    ADMINS = 1
    EVERYONE = 2


class Approval(IntEnum):
    """Whether calls of a tool need an approval; numbered as on the wire."""

    DEFAULT = 0
    ASK = 1
    ALWAYS = 2
    NEVER = 3


class State(IntEnum):
    """The state of an MCP server; numbered as on the wire."""

    CONNECTING = 1
    READY = 2
    FAILED = 3
    DISABLED = 4


@dataclass(frozen=True, kw_only=True)
class Stdio:
    """A command that speaks MCP over its standard input and output."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Values are secrets."""
    directory: str = ""


@dataclass(frozen=True, kw_only=True)
class Http:
    """A server that speaks MCP's Streamable HTTP."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Values are secrets."""


Transport = Stdio | Http


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of calls."""

    timeout_ms: int = 60_000
    max_result_bytes: int = 262_144
    max_calls_at_once: int = 8


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """An MCP server, as an administrator has set it."""

    name: str
    transport: Transport
    access: Access = Access.ADMINS
    limits: Limits = Limits()
    default_approval: Approval = Approval.ASK
    disabled: bool = False
    created_ms: int = 0
    revision: int = 0
    """Of the last change that a connection must follow."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The policy that an administrator has set for a tool."""

    approval: Approval
    definition: str
    """Of the tool as it was then."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool, as its server describes it. Not to be trusted."""

    server: str
    name: str
    function: str
    title: str = ""
    description: str = ""
    input_schema: str = "{}"
    """A JSON object."""
    read_only: bool = False
    destructive: bool = False

    @property
    def definition(self) -> str:
        """Tells whether its server has changed it: a hash of all that a model or a person reads."""
        told = (self.title, self.description, self.input_schema, self.read_only, self.destructive)
        return sha256(repr(told).encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """About what it takes in a list."""
        texts = (self.name, self.title, self.description, self.input_schema)
        return 200 + sum(len(text.encode()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class FailureFacts:
    """Why something failed, as in mlxmesh.common.v1.Failure."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """How a server is doing, in this process."""

    state: State
    failure: FailureFacts | None = None
    server_name: str = ""
    server_version: str = ""
    tools: Sequence[Tool] = ()
    left_out: int = 0
    """Tools that it offers beside these."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a tool returned, within the limits."""

    content: str
    """A JSON array of MCP's content blocks."""
    text: str
    structured: str
    """A JSON object; may be empty."""
    is_error: bool
    truncated: bool


@dataclass(frozen=True, kw_only=True)
class CallRecord:
    """One call: sizes and hashes instead of arguments and results."""

    call_id: str
    time_ms: int
    principal: str
    server: str
    tool: str
    approved: bool
    arguments_bytes: int
    arguments_sha256: str
    request_id: str
    result_bytes: int = 0
    result_sha256: str = ""
    duration_ms: float = 0.0
    is_error: bool = False
    failure: FailureFacts | None = None
