"""The routes of the HTTP port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlxmesh_gateway.http.hosts import AnsweredHosts

MetricsPage = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Renders the page of metrics for an Accept header; returns it with its content type."""

_NO_METRICS = (
    "there are no metrics here: the setting telemetry_sinks of the gateway lacks prometheus\n"
)


_OTHER_HOST = (
    "this port does not answer requests for that host name, since any web page could make them:"
    " name it in the setting http_hosts of the gateway, or ask for the address\n"
)


def create_app(metrics_page: MetricsPage | None, hosts: AnsweredHosts | None = None) -> Starlette:
    """The application; without a page /metrics says so.

    hosts: the Host headers that /metrics answers; None for all.
    """

    async def metrics(request: Request) -> Response:
        asked = request.headers.get("host")
        if hosts is not None and asked is not None and not hosts.answers(asked):
            return PlainTextResponse(_OTHER_HOST, status_code=421)
        if metrics_page is None:
            return PlainTextResponse(_NO_METRICS, status_code=404)
        page, content_type = await metrics_page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", _healthz)])


async def _healthz(_request: Request) -> Response:
    """This process answers; whether it accepts calls is reported by its gRPC health service."""
    return PlainTextResponse("ok\n")
