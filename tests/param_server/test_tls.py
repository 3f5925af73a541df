"""rediss:// against a server that speaks TLS itself where one is installed, and through a TLS proxy."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from contracts.errors import InvalidInput, Unavailable
from param_server.connection import connect_one
from param_server.embedded import EmbeddedServer
from param_server.settings import StoreSettings
from param_server.store import Store
from tests.certificates import Certificates, make_certificates
from tests.param_server.samples import make_records, make_space, make_window
from tests.tcp_proxy import tcp_proxy

SPACE = make_space()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of another authority."""
    return make_certificates(tmp_path_factory.mktemp("tls") / "strange")


@pytest.fixture(params=["server", "proxy"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@asynccontextmanager
async def tls_server(
    kind: str, own: Certificates, clients: bool, server: EmbeddedServer, folder: Path
) -> AsyncIterator[int]:
    """The port. clients: whether they have to show a certificate of the same authority."""
    async with AsyncExitStack() as closing:
        if kind == "proxy":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(own.ca))
            context.load_cert_chain(own.server, own.server_key)
            context.verify_mode = ssl.CERT_REQUIRED if clients else ssl.CERT_NONE
            proxy = await closing.enter_async_context(tcp_proxy(server.url, context))
            yield proxy.port
            return
        binary = shutil.which("redis-server")
        if binary is None or b"libssl" not in (Path(binary).read_bytes()):
            pytest.skip("no redis-server that speaks TLS is installed")
        port = _free_port()
        options = {
            **{"port": "0", "tls-port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": ""},
            **{"appendonly": "yes", "appendfsync": "always", "hash-max-listpack-value": "8192"},
            **{"tls-cert-file": str(own.server), "tls-key-file": str(own.server_key)},
            **{"tls-ca-cert-file": str(own.ca), "tls-auth-clients": "yes" if clients else "no"},
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        log = (folder / "log").open("wb")
        process = subprocess.Popen([binary, *words], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while "Ready to accept" not in (folder / "log").read_text():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
            yield port
        finally:
            process.kill()
            process.wait()
            log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def settings(**files: Any) -> StoreSettings:
    return StoreSettings(**{f"redis_tls_{name}": value for name, value in files.items()})


async def works(redis: Redis) -> None:
    """A space, a window and a large reply."""
    store = Store(redis)
    await store.create_space(SPACE)
    ids = [f"item {n}" for n in range(2_000)]
    assert (await store.commit_window(make_window(SPACE, ids, list(range(1, 2_001))))).all()
    got = await store.fetch(SPACE, None, ids)
    assert (got.records == make_records(SPACE, list(range(1, 2_001)))).all()


async def refused(url: str, with_settings: StoreSettings) -> str:
    async with connect_one(url, with_settings) as redis:
        with pytest.raises(Unavailable) as error:
            await Store(redis).spaces()
        return str(error.value)


async def test_a_server_that_our_authority_signed_is_used(
    kind: str, certificates: Certificates, server: EmbeddedServer, redis: Redis, tmp_path: Path
) -> None:
    async with tls_server(kind, certificates, False, server, tmp_path) as port:
        for host in ("localhost", "127.0.0.1"):
            ours = settings(ca_file=certificates.ca)
            async with connect_one(f"rediss://{host}:{port}/0", ours) as client:
                await works(client)


async def test_a_server_of_another_authority_is_refused(
    kind: str, certificates: Certificates, strange: Certificates, server: EmbeddedServer, tmp_path: Path
) -> None:
    async with tls_server(kind, certificates, False, server, tmp_path) as port:
        for ca in (strange.ca, None):  # None: the system's authorities
            message = await refused(f"rediss://localhost:{port}/0", settings(ca_file=ca))
            assert "redis_tls_ca_file does not vouch for the server's certificate" in message


async def test_a_certificate_of_another_host_is_refused_unless_told_so(
    strange: Certificates, certificates: Certificates, server: EmbeddedServer, redis: Redis
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.elsewhere, certificates.elsewhere_key)
    async with tcp_proxy(server.url, context) as proxy:
        url = f"rediss://localhost:{proxy.port}/0"
        ours = settings(ca_file=certificates.ca)
        assert "REPCENTER_REDIS_TLS_CHECK_HOSTNAME" in await refused(url, ours)
        unchecked = settings(ca_file=certificates.ca, check_hostname=False)
        message = await refused(url, unchecked.model_copy(update={"redis_tls_ca_file": strange.ca}))
        assert "redis_tls_ca_file" in message  # the signature is checked all the same


async def test_a_server_that_asks_for_a_certificate_gets_it(
    kind: str,
    certificates: Certificates,
    strange: Certificates,
    server: EmbeddedServer,
    redis: Redis,
    tmp_path: Path,
) -> None:
    ca = certificates.ca
    async with tls_server(kind, certificates, True, server, tmp_path) as port:
        url = f"rediss://localhost:{port}/0"
        shown = settings(ca_file=ca, cert_file=certificates.client, key_file=certificates.client_key)
        async with connect_one(url, shown) as client:
            await works(client)
        other = settings(ca_file=ca, cert_file=strange.client, key_file=strange.client_key)
        for wrong, said in ((settings(ca_file=ca), "set redis_tls_cert_file"), (other, "_TLS_CERT_FILE")):
            messages = [await refused(url, wrong)]
            while kind == "server" and said not in messages[-1] and len(messages) < 100:
                messages.append(await refused(url, wrong))  # a reset may overtake the reason for it
            assert said in messages[-1] or kind == "proxy", messages


async def test_a_server_that_speaks_no_tls_is_told_so(server: EmbeddedServer, redis: Redis) -> None:
    async with tcp_proxy(server.url) as plain:
        url = plain.url.replace("redis://", "rediss://me:hunter2@")
        message = await refused(url, StoreSettings(socket_timeout_s=0.2))
    assert "no connection to Redis in time" in message or "does not speak TLS" in message
    assert "hunter2" not in message

    async def complain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR Protocol error\r\n")
        writer.close()

    talker = await asyncio.start_server(complain, "127.0.0.1", 0)
    async with talker:
        port = talker.sockets[0].getsockname()[1]
        assert "does not speak TLS" in await refused(f"rediss://127.0.0.1:{port}/0", StoreSettings())


def test_files_that_cannot_be_used_name_their_setting_and_no_path(
    certificates: Certificates, strange: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url, gone, key = "rediss://localhost:1/0", tmp_path / "gone", certificates.client_key
    empty = tmp_path / "secret-place"
    empty.write_text("not a PEM")
    cert = certificates.client
    for field, files in (
        ("redis_tls_ca_file", {"ca_file": gone}),
        ("redis_tls_ca_file", {"ca_file": empty}),
        ("redis_tls_key_file", {"cert_file": cert}),
        ("redis_tls_cert_file", {"key_file": key}),
        ("redis_tls_cert_file", {"cert_file": gone, "key_file": key}),
        ("redis_tls_key_file", {"cert_file": cert, "key_file": gone}),
        ("redis_tls_key_file", {"cert_file": cert, "key_file": empty}),
        ("redis_tls_key_file", {"cert_file": cert, "key_file": strange.client_key}),
    ):
        with pytest.raises(InvalidInput, match=f"^{field}: ") as error:
            connect_one(url, settings(**files))
        assert str(tmp_path) not in str(error.value) + repr(settings(**files)) + caplog.text
        assert "key" not in repr(settings(**files))
        connect_one("redis://localhost:1/0", settings(**files))  # only TLS needs them


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(
    certificates: Certificates, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-in", str(certificates.client_key), "-out", str(locked), "-aes128"]
    subprocess.run([*command, "-passout", "pass:hunter2"], check=True, capture_output=True, timeout=30)
    with pytest.raises(InvalidInput, match=r"^redis_tls_key_file: .*passphrase"):
        connect_one("rediss://localhost:1/0", settings(cert_file=certificates.client, key_file=locked))


def test_a_url_cannot_switch_checks_off() -> None:
    with pytest.raises(InvalidInput, match="REPCENTER_REDIS_TLS_"):
        connect_one("rediss://localhost:1/0?ssl_cert_reqs=none", StoreSettings())
