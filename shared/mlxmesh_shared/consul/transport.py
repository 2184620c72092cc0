"""HTTP to a Consul agent, beneath py-consul's API.

py-consul's own raises aiohttp's errors and has no timeout for a request.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
import consul.base as py_consul  # pyright: ignore[reportMissingTypeStubs] - it has none

from mlxmesh_shared.errors import RegistryUnavailable
from mlxmesh_shared.settings.consul import ConsulSettings

CHECK_INTERVAL_S = 1.0
Callback = Callable[[Any], Any]
Params = Sequence[tuple[str, str | int]]


class Transport:
    """Satisfies py-consul's HTTPClient; an error status raises RegistryUnavailable."""

    def __init__(self, settings: ConsulSettings) -> None:
        self._tls = RenewedTls(settings)
        self._agent = f"{'https' if self._tls.is_on else 'http'}://{settings.address}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            # The agent is on this host, and compression is a third of what a long list costs it.
            headers={"Accept-Encoding": "identity"},
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
                method,
                url,
                params=list(params),
                headers=headers,
                data=data,
                # Connections are kept by the context with which they were made.
                ssl=self._tls.current() or True,
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


class RenewedTls:
    """The TLS context for new connections, made again when its files have changed."""

    def __init__(
        self, settings: ConsulSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises: RegistryUnavailable for unusable files."""
        self._settings = settings
        self._clock = clock
        self._stamps: Sequence[tuple[int, int]] = _stamps(settings)
        self._context = _tls(settings)
        self._check_at_s = clock() + CHECK_INTERVAL_S

    @property
    def is_on(self) -> bool:
        """Whether there is TLS."""
        return self._context is not None

    def current(self) -> ssl.SSLContext | None:
        """The last one while the files do not match each other, as during a renewal."""
        if self.is_on and self._clock() >= self._check_at_s:
            self._check_at_s = self._clock() + CHECK_INTERVAL_S
            stamps = _stamps(self._settings)
            if stamps != self._stamps:
                with suppress(RegistryUnavailable):
                    self._context, self._stamps = _tls(self._settings), stamps
        return self._context


def _stamps(settings: ConsulSettings) -> Sequence[tuple[int, int]]:
    """What changes with the files; nothing while one is missing."""
    files = [path for path in (settings.ca, settings.cert, settings.key) if path is not None]
    try:
        return [(path.stat().st_mtime_ns, path.stat().st_ino) for path in files]
    except OSError:
        return ()


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
