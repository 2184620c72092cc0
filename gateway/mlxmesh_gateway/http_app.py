"""Builds the HTTP server: its port, its application, and the edges in it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http.tls import server_context
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.tls import CertificateFiles
from mlxmesh_shared.tls.identity import NOBODY


@asynccontextmanager
async def serving_http(
    port: HttpPort,
    door: HttpDoor,
    telemetry: Telemetry,
    prometheus: PrometheusSink | None,
    settings: GatewaySettings,
    *,
    must_authenticate: Callable[[], bool],
) -> AsyncGenerator[None]:
    """Serves the port until the body ends."""
    tls = _tls(settings, must_authenticate)
    async with AsyncExitStack() as ending:
        make_app = partial(_make_app, door, telemetry, prometheus, settings, ending)
        async with port.serving(
            make_app,
            tls,
            grace_s=settings.drain_grace_s,
            end_requests=door.end_calls,
            end_watches=door.end_watches,
        ):
            yield


def metrics_page(prometheus: PrometheusSink) -> Callable[[str], Awaitable[tuple[bytes, str]]]:
    """Renders what the sink holds for an Accept header; returns it with its content type."""
    from mlxmesh_gateway.otlp.exposition import expose

    async def page(accept: str) -> tuple[bytes, str]:
        # On a thread: rendering a page of many engines would delay relayed calls.
        return await asyncio.to_thread(expose, list(prometheus.processes()), accept)

    return page


def _make_app(
    door: HttpDoor,
    telemetry: Telemetry,
    prometheus: PrometheusSink | None,
    settings: GatewaySettings,
    ending: AsyncExitStack,
) -> Any:
    # Not at the top: only a gateway with HTTP clients needs these libraries.
    from mlxmesh_gateway.console.routes import console_routes
    from mlxmesh_gateway.edges import edge_routes
    from mlxmesh_gateway.forwarding.telemetry import observe_unknown_fields
    from mlxmesh_gateway.http.app import create_app
    from mlxmesh_gateway.http.edge import EdgeParts, ToolLimits
    from mlxmesh_gateway.http.endpoint import CERTIFICATE, credential_of, headers_of, host_of
    from mlxmesh_gateway.http.exchange import UnknownFields
    from mlxmesh_gateway.http.served import ServedRequests

    unknown_fields = UnknownFields(refuse=settings.unknown_fields == "refuse")
    observe_unknown_fields(telemetry.metrics, unknown_fields)
    parts = EdgeParts(
        door=door,
        served=ServedRequests(telemetry),
        unknown_fields=unknown_fields,
        ending=ending,
        tool_limits=ToolLimits(
            tool_calls=settings.max_tool_calls,
            result_characters=settings.max_tool_result_characters,
            default_deadline_s=settings.default_deadline_s,
            max_deadline_s=settings.max_deadline_s,
        ),
    )
    page = metrics_page(prometheus) if prometheus is not None else None

    async def check_reader(request: Any) -> None:
        scope = request.scope
        await door.check_known(
            headers_of(scope),
            credential=credential_of(scope),
            certificate=scope.get(CERTIFICATE, NOBODY),
            host=host_of(scope),
        )

    return create_app(
        page,
        [*edge_routes(parts), *(console_routes() if settings.console else ())],
        hosts=_hosts(settings),
        origins=settings.cors_origins,
        check_reader=check_reader,
    )


def _hosts(settings: GatewaySettings) -> AnsweredHosts | None:
    if settings.tls_dir is not None:
        return None  # the names in the certificate protect a port with TLS
    own = (settings.http_listen.rpartition(":")[0], settings.advertise_host)
    return AnsweredHosts([*settings.http_hosts, *own])


def _tls(
    settings: GatewaySettings, must_authenticate: Callable[[], bool]
) -> Callable[[], ssl.SSLContext] | None:
    if settings.tls_dir is None:
        return None
    return partial(
        server_context,
        CertificateFiles.of_role(settings.tls_dir, "gateway"),
        client_certificates=partial(_client_certificates, settings, must_authenticate),
    )


_MODES = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "off": ssl.CERT_NONE}


def _client_certificates(
    settings: GatewaySettings, must_authenticate: Callable[[], bool]
) -> ssl.VerifyMode:
    """What a connection that begins now must present."""
    asked = settings.http_client_certificates
    if asked != "auto":
        return _MODES[asked]
    if settings.client_certificates == "required" and must_authenticate():
        return ssl.CERT_OPTIONAL  # a key will do
    return _MODES[settings.client_certificates]
