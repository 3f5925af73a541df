"""Pictures by URL: from allowed origins at checked addresses only, in bounded time and bytes.

A host is resolved here, every address it has is checked, and the connection is made to a checked address
itself, so an answer of DNS that changes afterwards changes nothing. Each hop of a redirect is a new URL.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urljoin

import httpcore

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from realtime_infer.origins import Origin, WebAddress, web_address
from realtime_infer.public_address import Network, is_fetchable

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_REDIRECTS = 3
_FIELD = "image_url"
_MAX_ADDRESSES = 4  # of one host that are tried
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_HEADERS = [(b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"repcenter/1")]


class Passing(Exception):
    """A failure that may be gone at the next try."""


class HttpFetcher:
    """GET of pictures. Proxies and credentials of the environment are not used."""

    def __init__(
        self,
        origins: Sequence[Origin],
        networks: Sequence[Network],
        *,
        connections: int = 16,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """networks: allowed although not public. tls: whom to trust; None: the public authorities."""
        self._origins = origins
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections,
            keepalive_expiry=15.0,
            network_backend=_CheckedBackend(networks, resolver or resolve),
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def check(self, url: str) -> WebAddress:
        """The address, where its origin is allowed; else InvalidInput."""
        address = web_address(url)
        if not self._origins:
            raise InvalidInput(_FIELD, address.place, "is a URL, and no origin of pictures is allowed here")
        if not any(origin.allows(address) for origin in self._origins):
            raise InvalidInput(_FIELD, address.place, "is of an origin that is not allowed")
        return address

    async def fetch(self, url: str) -> bytes:
        """The body. Raises InvalidInput, TooLarge, or Passing where another try may help."""
        for _ in range(MAX_REDIRECTS + 1):
            address = self.check(url)
            try:
                answer = await self._get(address)
            except (httpcore.TimeoutException, httpcore.NetworkError) as error:
                raise Passing(f"could not be reached ({type(error).__name__}: {error})") from error
            except httpcore.ProtocolError as error:
                raise Passing(f"does not speak HTTP ({error})") from error
            if isinstance(answer, bytes):
                return answer
            try:
                url = urljoin(url, answer)
            except ValueError as error:
                raise InvalidInput(_FIELD, address.place, "redirects to no URL") from error
        raise InvalidInput(_FIELD, address.place, f"redirects more than {MAX_REDIRECTS} times")

    async def _get(self, address: WebAddress) -> bytes | str:
        """The body, or where it is instead."""
        url = httpcore.URL(
            scheme=address.scheme.encode(),
            host=address.host.encode(),
            port=address.port,
            target=address.target.encode(),
        )
        async with self._pool.stream("GET", url, headers=_HEADERS) as response:
            headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return headers[b"location"]
            if response.status in _PASSING:
                raise Passing(f"was answered with {response.status}")
            if response.status != 200:
                raise InvalidInput(_FIELD, address.place, f"was answered with {response.status}")
            if (coding := headers.get(b"content-encoding", "identity").lower()) not in ("identity", ""):
                raise InvalidInput(_FIELD, address.place, f"was sent as {coding}, which was not asked for")
            length = headers.get(b"content-length", "0")
            if int(length) > MAX_IMAGE_BYTES:  # digits, or the client had refused it
                raise TooLarge(_FIELD, int(length), MAX_IMAGE_BYTES, "bytes")
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                if len(body) > MAX_IMAGE_BYTES:
                    raise TooLarge(_FIELD, len(body), MAX_IMAGE_BYTES, "bytes or more")
            return bytes(body)


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connections to checked addresses; TLS goes on to name and verify the host of the URL."""

    def __init__(self, allowed: Sequence[Network], resolver: Resolver) -> None:
        self._allowed = allowed
        self._resolver = resolver
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolver(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"host {host} was not found") from error
        for address in addresses:
            if not is_fetchable(address, self._allowed):
                raise InvalidInput(_FIELD, host, f"is at an address that is not public ({address})")
        failure: Exception = httpcore.ConnectError(f"host {host} has no address")
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.UnsupportedProtocol("pictures are not fetched from unix sockets")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
