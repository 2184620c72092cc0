"""A Consul agent in this process: what the mesh uses of the HTTP API, and how it goes wrong."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mlxmesh_shared.host.host_port import split_host_port
from mlxmesh_shared.rpc.health import health

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


@dataclass
class Policy:
    """What a token may do: prefixes of services and keys, as in Consul's ACL rules."""

    write_services: tuple[str, ...] = ()
    read_services: tuple[str, ...] = ()
    read_keys: tuple[str, ...] = ()
    write_keys: tuple[str, ...] = ()


@dataclass
class Faults:
    """What goes wrong, until it is taken back."""

    status: int = 0
    """Answered to everything, when not 0."""
    empty_health: bool = False
    """Health queries find nobody."""
    silent: bool = False
    """Requests are never answered."""
    garbage: bool = False
    """Answers are not JSON."""
    unreachable: set[str] = field(default_factory=set[str])
    """Services whose checks fail, however they are."""
    server_lost: str = ""
    """Queries fail as while gossip counts the server at this address as failed, until it is joined.
    """


@dataclass
class _Check:
    service_id: str
    definition: Json
    status: str
    failures: int = 0
    due_s: float = 0.0


@dataclass
class _State:
    """What a restart of an agent in development mode loses."""

    index: int = 10
    services: dict[str, Json] = field(default_factory=dict)
    checks: dict[str, _Check] = field(default_factory=dict)
    keys: dict[str, Json] = field(default_factory=dict)
    sessions: dict[str, Json] = field(default_factory=dict)


class FakeConsulAgent:
    """Start, use `address`, stop; a port stays the same over restarts."""

    def __init__(self, policies: Mapping[str, Policy] | None = None) -> None:
        """With policies, by token, everything else is denied."""
        self.faults = Faults()
        self.requests: list[tuple[str, str]] = []
        self._policies = policies
        self._state = _State()
        self._changed = asyncio.Condition()
        self._restored = 0
        self._runner: web.AppRunner | None = None
        self._checking: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def services(self) -> dict[str, Json]:
        return self._state.services

    async def start(self) -> None:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard])
        app.add_routes(
            [
                web.put("/v1/agent/service/register", self._register),
                web.put("/v1/agent/service/deregister/{id}", self._deregister),
                web.get("/v1/agent/checks", self._list_checks),
                web.get("/v1/agent/members", self._members),
                web.get("/v1/status/leader", self._leader),
                web.put("/v1/agent/join/{address}", self._join),
                web.put("/v1/agent/check/{status:pass|warn|fail}/{id}", self._ttl),
                web.get("/v1/health/service/{name}", self._health),
                web.get("/v1/kv/{key:.*}", self._get_key),
                web.put("/v1/kv/{key:.*}", self._put_key),
                web.delete("/v1/kv/{key:.*}", self._delete_key),
                web.put("/v1/session/create", self._create_session),
                web.put("/v1/session/destroy/{id}", self._destroy_session),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._checking = asyncio.create_task(self._run_checks())

    async def stop(self) -> None:
        """Ends as a killed agent does: waiting queries break off."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        """As `agent -dev`: everything is forgotten, and the index begins again."""
        await self.stop()
        self._state = _State()
        # A real one takes longer; aiohttp asks once more at once when a connection breaks.
        await asyncio.sleep(0.3)
        await self.start()

    async def lose(self, service_id: str) -> None:
        """The agent loses one service, as by an operator's hand."""
        await self._remove(service_id)

    async def rewind(self) -> None:
        """The index goes backwards, as after a restored snapshot; what is known stays."""
        self._state.index = 0
        self._restored += 1
        await self._bump()

    async def put(self, key: str, value: str) -> None:
        """Sets a key, as an operator does."""
        self._store(key, value.encode())
        await self._bump()

    async def remove_keys(self) -> None:
        self._state.keys.clear()
        await self._bump()

    # How requests come in, and where they go wrong.

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        if self.faults.silent:
            await asyncio.Event().wait()
        if self.faults.status:
            return web.Response(status=self.faults.status, text="injected")
        if self.faults.garbage:
            return web.Response(text="<html>", headers={"X-Consul-Index": "1"})
        return await handler(request)

    def _may(self, request: web.Request, right: str, name: str) -> bool:
        if self._policies is None:
            return True
        policy = self._policies.get(request.headers.get("X-Consul-Token", ""), Policy())
        return name.startswith(getattr(policy, right) or ("\0",))

    def _require(self, request: web.Request, right: str, name: str) -> None:
        if not self._may(request, right, name):
            raise web.HTTPForbidden(text="Permission denied")

    async def _bump(self) -> None:
        async with self._changed:
            self._state.index += 1
            self._changed.notify_all()

    async def _wait(self, request: web.Request) -> None:
        """Blocks a query until the index is past the one it names, or its wait has ended.

        A query that names an index of the future waits as well; a restored snapshot ends it.
        """
        restored = self._restored
        index = int(request.query.get("index", "0"))
        wait_s = int(request.query.get("wait", "300000ms").removesuffix("ms")) / 1000
        try:
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(
                    lambda: self._state.index > index or self._restored != restored
                )
        except TimeoutError:
            pass

    def _answer(self, value: Any, status: int = 200) -> web.Response:
        headers = {"X-Consul-Index": str(self._state.index)}
        answer = web.Response(
            status=status, text=json.dumps(value), content_type="application/json", headers=headers
        )
        answer.enable_compression()  # if the client accepts it, as Consul does
        return answer

    # Other agents.

    async def _members(self, _: web.Request) -> web.Response:
        host, port = split_host_port(self.faults.server_lost or "127.0.0.1:8301")
        state = 4 if self.faults.server_lost else 1
        server = {"Addr": host, "Port": int(port), "Status": state, "Tags": {"role": "consul"}}
        client = {"Addr": "192.0.2.2", "Port": 8301, "Status": 4, "Tags": {"role": "node"}}
        return web.json_response([server, client])

    async def _join(self, request: web.Request) -> web.Response:
        if request.match_info["address"] == self.faults.server_lost:
            self.faults.server_lost = ""
        return web.Response()

    async def _leader(self, _: web.Request) -> web.Response:
        if self.faults.server_lost:
            return web.Response(status=500, text="No known Consul servers")
        return web.json_response("127.0.0.1:8300")

    # Services and their checks.

    async def _register(self, request: web.Request) -> web.Response:
        body: Json = {key.lower(): value for key, value in (await request.json()).items()}
        self._require(request, "write_services", body["name"])
        service_id = body.get("id") or body["name"]
        self._state.services[service_id] = {
            "ID": service_id,
            "Service": body["name"],
            "Address": body.get("address") or "",
            "Port": body.get("port") or 0,
            "Meta": body.get("meta") or {},
        }
        for check in [body["check"]] if "check" in body else body.get("checks", []):
            definition = {key.lower(): value for key, value in check.items()}
            self._state.checks[f"service:{service_id}"] = _Check(
                service_id, definition, definition.get("status", "critical")
            )
        await self._bump()
        return web.Response()

    async def _deregister(self, request: web.Request) -> web.Response:
        service = self._state.services.get(request.match_info["id"])
        if service is None:
            return web.Response(status=404, text="Unknown service ID")
        self._require(request, "write_services", service["Service"])
        await self._remove(service["ID"])
        return web.Response()

    async def _remove(self, service_id: str) -> None:
        self._state.services.pop(service_id, None)
        self._state.checks.pop(f"service:{service_id}", None)
        await self._bump()

    async def _list_checks(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                check_id: {"CheckID": check_id, "ServiceID": c.service_id, "Status": c.status}
                for check_id, c in self._state.checks.items()
                if self._may(
                    request, "read_services", self._state.services[c.service_id]["Service"]
                )
            }
        )

    async def _ttl(self, request: web.Request) -> web.Response:
        check = self._state.checks.get(request.match_info["id"])
        if check is None or "ttl" not in check.definition:
            return web.Response(status=404, text="Unknown check ID")
        words = {"pass": "passing", "warn": "warning", "fail": "critical"}
        check.due_s = time.monotonic() + _seconds(check.definition["ttl"])
        await self._set_status(check, words[request.match_info["status"]])
        return web.Response()

    async def _health(self, request: web.Request) -> web.Response:
        await self._wait(request)
        if self.faults.server_lost:
            return web.Response(status=500, text="No known Consul servers")
        name = request.match_info["name"]
        if self.faults.empty_health or not self._may(request, "read_services", name):
            return self._answer([])
        found = [
            {"Node": {"Node": "fake"}, "Service": service, "Checks": self._checks(service["ID"])}
            for service in self._state.services.values()
            if service["Service"] == name and self._passes(service["ID"], request)
        ]
        return self._answer(found)

    def _passes(self, service_id: str, request: web.Request) -> bool:
        check = self._state.checks.get(f"service:{service_id}")
        return "passing" not in request.query or check is None or check.status == "passing"

    def _checks(self, service_id: str) -> list[Json]:
        check = self._state.checks.get(f"service:{service_id}")
        return [{"Status": check.status}] if check is not None else []

    async def _run_checks(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            now_s = time.monotonic()
            for check in list(self._state.checks.values()):
                if now_s >= check.due_s:
                    await self._run_check(check, now_s)

    async def _run_check(self, check: _Check, now_s: float) -> None:
        if "ttl" in check.definition:
            if check.due_s:
                await self._set_status(check, "critical")
            return
        check.due_s = now_s + _seconds(check.definition["interval"])
        reached = check.service_id not in self.faults.unreachable
        if reached and await health(check.definition["grpc"]) == "serving":
            check.failures = 0
            await self._set_status(check, "passing")
            return
        check.failures += 1
        if check.failures >= check.definition.get("failuresbeforecritical", 0):
            await self._set_status(check, "critical")

    async def _set_status(self, check: _Check, status: str) -> None:
        if check.status != status:
            check.status = status
            await self._bump()

    # Keys and sessions.

    async def _get_key(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        recurse = "recurse" in request.query
        if not recurse:  # a list leaves out what may not be read
            self._require(request, "read_keys", key)
        await self._wait(request)
        found = [
            entry
            for name, entry in sorted(self._state.keys.items())
            if (name == key or (recurse and name.startswith(key)))
            and self._may(request, "read_keys", name)
        ]
        return self._answer(found, 200 if found else 404)

    async def _put_key(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        self._require(request, "write_keys", key)
        known = self._state.keys.get(key, {})
        cas = request.query.get("cas")
        holder, wanted = known.get("Session"), request.query.get("acquire")
        stale = cas is not None and int(cas) != known.get("ModifyIndex", 0)
        if stale or (
            wanted and (wanted not in self._state.sessions or holder not in (None, wanted))
        ):
            return web.json_response(False)
        self._store(key, await request.read(), wanted)
        await self._bump()
        return web.json_response(True)

    def _store(self, key: str, value: bytes, session: str | None = None) -> None:
        index = self._state.index + 1
        created = self._state.keys.get(key, {}).get("CreateIndex", index)
        self._state.keys[key] = {
            "Key": key,
            "Value": base64.b64encode(value).decode(),
            "CreateIndex": created,
            "ModifyIndex": index,
            "Flags": 0,
            "Session": session,
        }

    async def _delete_key(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        self._require(request, "write_keys", key)
        self._state.keys.pop(key, None)
        await self._bump()
        return web.json_response(True)

    async def _create_session(self, request: web.Request) -> web.Response:
        session_id = f"session-{len(self._state.sessions)}"
        self._state.sessions[session_id] = await request.json() if request.can_read_body else {}
        return web.json_response({"ID": session_id})

    async def _destroy_session(self, request: web.Request) -> web.Response:
        session_id = request.match_info["id"]
        self._state.sessions.pop(session_id, None)
        for entry in self._state.keys.values():
            if entry["Session"] == session_id:
                entry["Session"] = None
        await self._bump()
        return web.json_response(True)


def _seconds(duration: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        if duration.endswith(unit):
            return float(duration.removesuffix(unit)) * factor
    raise ValueError(duration)
