"""Builds the HTTP server from the settings."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http.tls import server_context
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.tls import CertificateFiles


def serving_http(
    port: HttpPort, prometheus: PrometheusSink | None, settings: GatewaySettings
) -> AbstractAsyncContextManager[None]:
    """Serves the port until the body ends."""
    return port.serving(partial(_make_app, prometheus, settings), _tls(settings))


def metrics_page(prometheus: PrometheusSink) -> Callable[[str], Awaitable[tuple[bytes, str]]]:
    """Renders what the sink holds for an Accept header; returns it with its content type."""
    from mlxmesh_gateway.otlp.exposition import expose

    async def page(accept: str) -> tuple[bytes, str]:
        # On a thread: rendering a page of many engines would delay relayed calls.
        return await asyncio.to_thread(expose, list(prometheus.processes()), accept)

    return page


def _make_app(prometheus: PrometheusSink | None, settings: GatewaySettings) -> Any:
    # Not at the top: only a gateway with HTTP clients needs its libraries.
    from mlxmesh_gateway.http.app import create_app

    page = metrics_page(prometheus) if prometheus is not None else None
    if settings.tls_dir is not None:
        return create_app(page)  # web pages have no certificate for this port
    own = (settings.http_listen.rpartition(":")[0], settings.advertise_host)
    return create_app(page, AnsweredHosts([*settings.http_hosts, *own]))


def _tls(settings: GatewaySettings) -> Callable[[], ssl.SSLContext] | None:
    if settings.tls_dir is None:
        return None
    return partial(
        server_context,
        CertificateFiles.of_role(settings.tls_dir, "gateway"),
        client_certificates=settings.client_certificates == "required",
    )
