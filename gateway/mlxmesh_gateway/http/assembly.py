"""Builds the HTTP server from the settings."""

from __future__ import annotations

import ssl
from collections.abc import Callable
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


def _make_app(prometheus: PrometheusSink | None, settings: GatewaySettings) -> Any:
    # Not at the top: only a gateway with HTTP clients needs its libraries.
    from mlxmesh_gateway.http.app import create_app

    if settings.tls_dir is not None:
        return create_app(prometheus)  # web pages have no certificate for this port
    own = (settings.http_listen.rpartition(":")[0], settings.advertise_host)
    return create_app(prometheus, AnsweredHosts([*settings.http_hosts, *own]))


def _tls(settings: GatewaySettings) -> Callable[[], ssl.SSLContext] | None:
    if settings.tls_dir is None:
        return None
    return partial(
        server_context,
        CertificateFiles.of_role(settings.tls_dir, "gateway"),
        client_certificates=settings.client_certificates == "required",
    )
