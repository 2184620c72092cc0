"""The routes of the HTTP port."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.otlp.exposition import expose
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink

_NO_METRICS = (
    "there are no metrics here: the setting telemetry_sinks of the gateway lacks prometheus\n"
)


_OTHER_HOST = (
    "this port does not answer requests for that host name, since any web page could make them:"
    " name it in the setting http_hosts of the gateway, or ask for the address\n"
)


def create_app(prometheus: PrometheusSink | None, hosts: AnsweredHosts | None = None) -> Starlette:
    """The application; without a Prometheus sink /metrics says so.

    hosts: the Host headers that /metrics answers; None for all.
    """

    async def metrics(request: Request) -> Response:
        asked = request.headers.get("host")
        if hosts is not None and asked is not None and not hosts.answers(asked):
            return PlainTextResponse(_OTHER_HOST, status_code=421)
        if prometheus is None:
            return PlainTextResponse(_NO_METRICS, status_code=404)
        accept, processes = request.headers.get("accept", ""), list(prometheus.processes())
        # On a thread: rendering a page of many engines would delay relayed calls.
        page, content_type = await asyncio.to_thread(expose, processes, accept)
        return Response(page, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", _healthz)])


async def _healthz(_request: Request) -> Response:
    """This process answers; whether it accepts calls is reported by its gRPC health service."""
    return PlainTextResponse("ok\n")
