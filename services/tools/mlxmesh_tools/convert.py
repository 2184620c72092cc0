"""Converts servers, tools and calls to ToolService's messages and back."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from mlxmesh.tool.v1 import tool_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.timestamps import to_time
from mlxmesh_tools.calls import Asked, Called
from mlxmesh_tools.domain import limits as bounds
from mlxmesh_tools.domain.models import (
    Access,
    Approval,
    CallRecord,
    Http,
    Limits,
    ServerConfig,
    Stdio,
    Transport,
)
from mlxmesh_tools.tool_events import to_failure
from mlxmesh_tools.tools import ServerView, ToolView


def from_add(request: pb.AddServerRequest) -> ServerConfig:
    """The server to add. Raises: InvalidArgument."""
    return ServerConfig(
        name=request.name,
        transport=_transport(request),
        access=_access(request.access),
        limits=_limits(request.limits),
        default_approval=_default_approval(request.default_approval),
        disabled=request.disabled,
    )


def from_update(request: pb.UpdateServerRequest) -> Callable[[ServerConfig], ServerConfig]:
    """What the changes make of a server. Raises: InvalidArgument."""
    changes: dict[str, Any] = {}
    if request.HasField("access"):
        changes["access"] = _access(request.access)
    if request.HasField("limits"):
        changes["limits"] = _limits(request.limits)
    if request.HasField("default_approval"):
        changes["default_approval"] = _default_approval(request.default_approval)
    if request.HasField("disabled"):
        changes["disabled"] = request.disabled
    wanted = _transport(request) if request.WhichOneof("transport") else None

    def changed(config: ServerConfig) -> ServerConfig:
        if wanted is not None:
            changes["transport"] = _with_kept_secrets(wanted, config.transport)
        return replace(config, **changes)

    return changed


def _transport(request: pb.AddServerRequest | pb.UpdateServerRequest) -> Transport:
    if request.WhichOneof("transport") == "http":
        return _http(request.http)
    return _stdio(request.stdio)


def _stdio(stdio: pb.StdioTransport) -> Stdio:
    texts = [*stdio.command, *stdio.environment.values(), stdio.directory]
    if any("\0" in text for text in texts) or not stdio.command[0]:
        raise InvalidArgument("a command must not be empty or contain NUL", field="stdio.command")
    if stdio.directory and not stdio.directory.startswith("/"):
        raise InvalidArgument("the directory must be absolute", field="stdio.directory")
    return Stdio(
        command=tuple(stdio.command),
        environment=dict(stdio.environment),
        directory=stdio.directory,
    )


def _http(http: pb.HttpTransport) -> Http:
    for value in http.headers.values():
        if not value.isascii() or not value.isprintable():
            raise InvalidArgument("values of headers must be ASCII text", field="http.headers")
    rest = http.url.partition("://")[2]
    if "@" in rest.partition("/")[0] or not rest.isprintable() or " " in rest:
        raise InvalidArgument(
            "the URL must be without spaces, user and password; use headers", field="http.url"
        )
    return Http(url=http.url, headers=dict(http.headers))


def _with_kept_secrets(wanted: Transport, before: Transport) -> Transport:
    """Empty values keep those of before, for the program or the origin that had them: secrets are
    never returned, so nobody may have them sent elsewhere either.
    """
    if isinstance(wanted, Stdio) and isinstance(before, Stdio):
        same = wanted.command[0] == before.command[0]
        kept: Mapping[str, str] = before.environment if same else {}
        return replace(wanted, environment=_kept(wanted.environment, kept))
    if isinstance(wanted, Http) and isinstance(before, Http):
        same = _origin(wanted.url) == _origin(before.url)
        stored: Mapping[str, str] = before.headers if same else {}
        return replace(wanted, headers=_kept(wanted.headers, stored))
    return wanted


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _kept(wanted: Mapping[str, str], before: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value or before.get(name, "") for name, value in wanted.items()}


def _limits(limits: pb.ServerLimits) -> Limits:
    """Raises: InvalidArgument."""
    defaults = Limits()
    if 0 < limits.timeout_ms < bounds.MIN_TIMEOUT_MS:
        raise InvalidArgument("must be 0, or 100 to 600,000", field="limits.timeout_ms")
    if 0 < limits.max_result_bytes < bounds.MIN_RESULT_BYTES:
        raise InvalidArgument("must be 0, or 1,024 to 16,777,216", field="limits.max_result_bytes")
    return Limits(
        timeout_ms=limits.timeout_ms or defaults.timeout_ms,
        max_result_bytes=limits.max_result_bytes or defaults.max_result_bytes,
        max_calls_at_once=limits.max_calls_at_once or defaults.max_calls_at_once,
    )


def _access(number: int) -> Access:
    try:
        return Access(number or Access.ADMINS)
    except ValueError:
        raise InvalidArgument("there is no such value", field="access") from None


def _default_approval(number: int) -> Approval:
    return from_approval(number, "default_approval") or Approval.ASK


def from_approval(number: int, field: str) -> Approval:
    """A policy. Raises: InvalidArgument."""
    try:
        return Approval(number)
    except ValueError:
        raise InvalidArgument("there is no such value", field=field) from None


def from_call(request: pb.CallToolRequest) -> Asked:
    """What is to be called. Raises: InvalidArgument."""
    if bool(request.function) == bool(request.server or request.tool):
        raise InvalidArgument("name the function, or server and tool", field="function")
    if not request.function and not (request.server and request.tool):
        raise InvalidArgument("name server and tool", field="tool" if request.server else "server")
    return Asked(
        server=request.server,
        tool=request.tool,
        function=request.function,
        arguments=request.arguments_json,
        approved=request.approved,
        request_id=request.request_id,
    )


def to_server(view: ServerView, *, is_admin: bool) -> pb.Server:
    """A server; a client does not see how it is reached and what it writes."""
    config, status = view.config, view.status
    server = pb.Server(
        name=config.name,
        access=pb.ServerAccess.ValueType(config.access),
        limits=pb.ServerLimits(
            timeout_ms=config.limits.timeout_ms,
            max_result_bytes=config.limits.max_result_bytes,
            max_calls_at_once=config.limits.max_calls_at_once,
        ),
        default_approval=pb.Approval.ValueType(config.default_approval),
        state=pb.ServerState.ValueType(status.state),
        failure=to_failure(status.failure),
        server_name=status.server_name,
        server_version=status.server_version,
        tools=len(status.tools),
        tools_left_out=status.left_out,
        create_time=to_time(config.created_ms),
    )
    if is_admin:
        _show_transport(server, config.transport)
    elif status.failure is not None:
        server.failure.message = "the MCP server cannot be reached"
    return server


def _show_transport(server: pb.Server, transport: Transport) -> None:
    """Without secrets."""
    match transport:
        case Stdio():
            server.stdio.command.extend(transport.command)
            server.stdio.directory = transport.directory
            server.stdio.environment.update(dict.fromkeys(transport.environment, ""))
        case Http():
            server.http.url = transport.url
            server.http.headers.update(dict.fromkeys(transport.headers, ""))


def to_tool(view: ToolView) -> pb.Tool:
    """A tool."""
    tool = view.tool
    return pb.Tool(
        server=tool.server,
        name=tool.name,
        function=tool.function,
        title=tool.title,
        description=tool.description,
        input_schema_json=tool.input_schema,
        approval=pb.Approval.ValueType(view.approval),
        read_only=tool.read_only,
        destructive=tool.destructive,
    )


def to_called(called: Called) -> pb.CallToolResponse:
    """What a tool has returned."""
    result, record = called.result, called.record
    return pb.CallToolResponse(
        content_json=result.content,
        text=result.text,
        structured_json=result.structured,
        is_error=result.is_error,
        truncated=result.truncated,
        duration_ms=record.duration_ms,
        call_id=record.call_id,
    )


def to_record(record: CallRecord, *, is_admin: bool) -> pb.ToolCallRecord:
    """The record of a call."""
    failure = to_failure(record.failure)
    if failure is not None and failure.reason == "TOOL_SERVER_UNAVAILABLE" and not is_admin:
        failure.message = "the MCP server cannot be reached"
    return pb.ToolCallRecord(
        call_id=record.call_id,
        time=to_time(record.time_ms),
        principal=record.principal,
        server=record.server,
        tool=record.tool,
        approved=record.approved,
        arguments_bytes=record.arguments_bytes,
        arguments_sha256=record.arguments_sha256,
        result_bytes=record.result_bytes,
        result_sha256=record.result_sha256,
        duration_ms=record.duration_ms,
        is_error=record.is_error,
        failure=failure,
        request_id=record.request_id,
    )
