"""HTTP to a Consul agent, beneath py-consul's API.

py-consul's own raises aiohttp's errors and has no timeout for a request.
"""

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import consul.base as py_consul  # pyright: ignore[reportMissingTypeStubs] - it has none

from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.settings.consul import ConsulSettings

Callback = Callable[[Any], Any]
Params = Sequence[tuple[str, str | int]]


class Transport:
    """Satisfies py-consul's HTTPClient; an error status raises RegistryUnavailable."""

    def __init__(self, settings: ConsulSettings) -> None:
        tls = _tls(settings)
        self._agent = f"{'http' if tls is None else 'https'}://{settings.address}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=True if tls is None else tls, limit=0),
            # ConsulAgent limits each request.
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def get(self, callback: Callback, path: str, params: Params = (), **more: Any) -> Any:
        """The callback's result for the response, as in py-consul's HTTPClient."""
        return await self._request("GET", callback, path, params, **more)

    async def put(self, callback: Callback, path: str, params: Params = (), **more: Any) -> Any:
        """As `get`."""
        return await self._request("PUT", callback, path, params, **more)

    async def close(self) -> None:
        """Closes its connections."""
        await self._session.close()

    async def _request(
        self,
        method: str,
        callback: Callback,
        path: str,
        params: Params,
        headers: Mapping[str, str] | None = None,
        data: str | bytes | None = None,
    ) -> Any:
        url = f"{self._agent}{path}"
        try:
            async with self._session.request(
                method, url, params=list(params), headers=headers, data=data
            ) as response:
                body = await response.text()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Only its type: the text may contain headers, and the token is one.
            raise RegistryUnavailable(
                f"cannot be reached ({type(error).__name__}); start it, or correct consul.address"
            ) from None
        if response.status >= 400 and response.status != 404:  # 404 is a result: no such key
            raise RegistryUnavailable(_refusal(response.status))
        return callback(py_consul.Response(response.status, response.headers, body))


def _tls(settings: ConsulSettings) -> ssl.SSLContext | None:
    """The TLS context; None without TLS. Raises: RegistryUnavailable for unusable files."""
    if settings.ca is None:
        if settings.cert is not None:
            raise RegistryUnavailable("consul.cert needs consul.ca, which turns TLS on")
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ca))
        if settings.cert is not None:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise RegistryUnavailable(
            f"consul.ca, consul.cert or consul.key cannot be used: {error.strerror or error}"
        ) from None
    return context


def _refusal(status: int) -> str:
    if status == 403:
        return (
            "denies that by its ACL (403); "
            "set consul.token to a token whose policy allows it, as in deploy/consul/policies"
        )
    if status == 429:
        return "asks for fewer requests (429)"
    return f"answered with HTTP status {status}; see its log"
