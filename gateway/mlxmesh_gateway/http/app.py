"""The HTTP application: the routes of the edges, metrics and health."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import cache
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mlxmesh_gateway.http.browsers import BrowserGuard
from mlxmesh_gateway.http.exchange import IGNORED_FIELDS
from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.http.openapi import openapi_document
from mlxmesh_gateway.http.statuses import error_headers, http_status
from mlxmesh_gateway.http.unmatched import outside_edges
from mlxmesh_shared.errors import MeshError

MetricsPage = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Renders the page of metrics for an Accept header; returns it with its content type."""

CheckReader = Callable[[Request], Awaitable[None]]
"""Raises: MeshError for a request whose sender may not read."""

_NO_METRICS = (
    "there are no metrics here: the setting telemetry_sinks of the gateway lacks prometheus\n"
)
_EXPOSED_HEADERS = (
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-request-id",
    "request-id",
    IGNORED_FIELDS,
)
"""Of responses, for the scripts of web pages of other origins."""


def create_app(
    metrics_page: MetricsPage | None,
    routes: Iterable[BaseRoute] = (),
    *,
    hosts: AnsweredHosts | None = None,
    origins: Sequence[str] = (),
    check_reader: CheckReader | None = None,
) -> Starlette:
    """The application; without a page /metrics says so.

    hosts: the Host headers that are answered; None for all.
    origins: of web pages that may make requests.
    check_reader: of metrics; None for everybody.
    """

    async def metrics(request: Request) -> Response:
        if check_reader is not None:
            try:
                await check_reader(request)
            except MeshError as error:
                return _refusal(error)
        if metrics_page is None:
            return PlainTextResponse(_NO_METRICS, status_code=404)
        page, content_type = await metrics_page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    every = [*routes]

    @cache
    def document() -> bytes:
        return json.dumps(openapi_document(every)).encode()

    async def openapi(_request: Request) -> Response:
        return Response(await asyncio.to_thread(document), media_type="application/json")

    own = [
        Route("/metrics", metrics),
        Route("/healthz", _healthz),
        Route("/health", _healthz),
        Route("/openapi.json", openapi),
    ]
    app = Starlette(
        routes=[*own, *every],
        middleware=_middleware(hosts, origins),
        exception_handlers={404: outside_edges, 405: outside_edges},
    )
    # A redirect would quote the query, and fails where that is not UTF-8.
    app.router.redirect_slashes = False
    return app


def _refusal(error: MeshError) -> Response:
    headers = dict(error_headers(error))
    return PlainTextResponse(f"{error.message}\n", http_status(error), headers)


def _middleware(hosts: AnsweredHosts | None, origins: Sequence[str]) -> list[Middleware]:
    guard: list[Any] = [Middleware(BrowserGuard, hosts=hosts, origins=origins)]
    if origins:
        # Without credentials: keys are sent in headers, and no edge reads cookies.
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
        guard.append(cors)
    return guard


async def _healthz(_request: Request) -> Response:
    """This process answers; whether it accepts calls is reported by its gRPC health service."""
    return PlainTextResponse("ok\n")
