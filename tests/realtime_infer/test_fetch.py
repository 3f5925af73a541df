"""Pictures fetched over real sockets and from real directories: what is allowed comes, nothing else does."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import pytest

from contracts.errors import InvalidInput, RepcenterError, TooLarge, Unavailable
from contracts.images import MAX_IMAGE_BYTES
from contracts.items import Item
from realtime_infer.decode_pool import DecodePool
from realtime_infer.fetch import FetchLimits, PictureSources
from realtime_infer.load_pictures import PictureLoader
from realtime_infer.origins import parse_origin, web_address
from realtime_infer.public_address import is_fetchable, networks
from tests.certificates import make_certificates
from tests.contracts import pictures

LOOPBACK = ("127.0.0.0/8", "::1/128")
PNG = pictures.saved(pictures.photo(), "PNG")
Handler = Callable[[str, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@dataclass
class WebServer:
    """A server whose answers are written byte by byte. requests: heads as they came."""

    port: int
    requests: list[str] = field(default_factory=list)
    answers: dict[str, bytes | Handler] = field(default_factory=dict)
    once: list[bytes] = field(default_factory=list)

    def url(self, path: str, host: str = "pictures.test") -> str:
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[WebServer]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            web.requests.append(head)
            path = head.split()[1]
            found = web.once.pop(0) if web.once else web.answers.get(path, answer(b"", "404 Not Found"))
            if isinstance(found, bytes):
                writer.write(found)
            else:
                await found(path, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    web = WebServer(0)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    try:
        yield web
    finally:
        server.close()


def resolver(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Gives the answers in turn, the last for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


def sources(
    web: WebServer, *answers: Sequence[str], loopback: bool = True, **limits: float
) -> PictureSources:
    allowed = FetchLimits(
        origins=(f"http://pictures.test:{web.port}", f"http://*.cdn.test:{web.port}"),
        networks=LOOPBACK if loopback else (),
        timeout_s=limits.get("timeout_s", 5.0),
        attempts=int(limits.get("attempts", 1)),
    )
    return PictureSources(allowed, resolver=resolver(*(answers or (["127.0.0.1"],))))


async def test_a_picture_comes_from_an_allowed_origin_without_what_was_not_asked_for() -> None:
    os.environ["HTTP_PROXY"] = os.environ["http_proxy"] = "http://127.0.0.1:1"
    try:
        async with serving() as web, sources(web) as allowed:
            web.answers["/a%20b.png?x=1&s=%2F"] = answer(PNG)
            assert await allowed.fetch(web.url("/a%20b.png?x=1&s=%2F#part")) == PNG
            web.answers["/b.png"] = answer(PNG)
            assert await allowed.fetch(web.url("/b.png", "eu.cdn.test")) == PNG
    finally:
        del os.environ["HTTP_PROXY"], os.environ["http_proxy"]
    head = web.requests[0].lower()
    assert f"host: pictures.test:{web.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert "authorization" not in head
    assert "cookie" not in head
    assert f"host: eu.cdn.test:{web.port}\r\n" in web.requests[1].lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://other.test:{port}/a.png",
        "http://cdn.test:{port}/a.png",  # *.cdn.test is what lies below it
        "http://notcdn.test:{port}/a.png",
        "http://pictures.test/a.png",
        "http://pictures.test:22/a.png",
        "https://pictures.test:{port}/a.png",
        "http://pictures.test.evil.test:{port}/a.png",
        "http://127.0.0.1:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "http://0x7f.1:{port}/a.png",
        "http://[::1]:{port}/a.png",
        "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://user:secret@pictures.test:{port}/a.png",
        "http://pictures.test:{port}@evil.test/a.png",
        "http://evil.test\\@pictures.test:{port}/a.png",
        "http://pictures.test.:{port}/a.png",
        "http://pictures。test:{port}/a.png",
        "http://pictures.test:99999/a.png",
        "http://pictures.test:x/a.png",
        "http://[fe80::1%25eth0]:{port}/a.png",
        "http:///a.png",
        "http://pictures.test:{port}/a b.png",
        "http://pictures.test:{port}/a.png\r\nX-Injected: 1",
        "ftp://pictures.test/a.png",
        "gopher://pictures.test:{port}/_GET",
        "file:///etc/passwd",
        "/etc/passwd",
        "s3://bucket/a.png",
        "simplecache::http://pictures.test:{port}/a.png",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "pictures.test/a.png",
        "",
    ],
)
async def test_what_is_not_allowed_is_refused_and_nothing_is_asked(url: str) -> None:
    async with serving() as web, sources(web) as allowed:
        with pytest.raises(InvalidInput, match=r"^image_url: ") as refused:
            await allowed.fetch(url.format(port=web.port))
        with pytest.raises(InvalidInput):
            allowed.check(Item("a", image_url=url.format(port=web.port)))
    assert web.requests == []
    assert "secret" not in str(refused.value)


async def test_urls_and_paths_are_off_unless_they_are_allowed() -> None:
    async with PictureSources(FetchLimits()) as none:
        for url in ("https://example.com/a.png", "/etc/hostname", "s3://bucket/a.png"):
            with pytest.raises(InvalidInput, match=r"^image_url: .*allowed here"):
                none.check(Item("a", image_url=url))
        none.check(Item("a", {"title": "Heat"}))


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::",
    "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808",
    "64:ff9b:1::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd12:3456::1", "ff02::1",
    "2001:db8::1", "2001::1", "2002:7f00:1::", "2002:808:808::", "100::1", "3fff::1", "5f00::1",
    "4000::1", "not an address", "", "2606:4700::1%1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111"]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_fetchable(address)
    assert not is_fetchable(address, networks(["11.0.0.0/8", "2a00::/16"], "image_url_networks"))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_fetchable(address)


def test_networks_are_allowed_by_name_alone() -> None:
    allowed = networks(["10.1.0.0/16", "fd00::/8"], "image_url_networks")
    assert [is_fetchable(a, allowed) for a in ("10.1.2.3", "10.2.2.3", "fd12::1", "fc00::1")] == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(InvalidInput, match="image_url_networks"):
        networks(["10.1.2.3/16"], "image_url_networks")


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
async def test_a_host_at_an_address_that_is_not_public_is_never_spoken_to(address: str) -> None:
    async with serving() as web:
        for answers in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
            async with sources(web, answers, loopback=False) as allowed:
                with pytest.raises(InvalidInput, match=r"^image_url: is at an address that is not public"):
                    await allowed.fetch(web.url("/a.png"))
    assert web.requests == []


async def test_a_name_that_moves_between_check_and_connection_gains_nothing() -> None:
    """The name is resolved once per connection: what was checked is what is spoken to."""
    asked: list[str] = []

    async def moving(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async with serving() as web:
        limits = FetchLimits(origins=(f"http://pictures.test:{web.port}",), networks=LOOPBACK, attempts=1)
        async with PictureSources(limits, resolver=moving) as allowed:
            web.answers["/a.png"] = answer(PNG)
            assert await allowed.fetch(web.url("/a.png")) == PNG
            assert asked == ["pictures.test"]
            with pytest.raises(InvalidInput, match="not public"):
                await allowed.fetch(web.url("/a.png"))
    assert len(web.requests) == 1


async def test_redirects_are_followed_within_the_allowed_origins() -> None:
    async with serving() as web, sources(web) as allowed:
        web.answers["/1"] = answer(b"", "302 Found", "Location: /2")
        web.answers["/2"] = answer(b"", "301 Moved", f"Location: {web.url('/3', 'eu.cdn.test')}")
        web.answers["/3"] = answer(b"", "307 Temporary Redirect", "Location: a.png")
        web.answers["/a.png"] = answer(PNG)
        assert await allowed.fetch(web.url("/1")) == PNG
        web.answers["/0"] = answer(b"", "308 Permanent Redirect", "Location: /1")
        with pytest.raises(InvalidInput, match="redirects more than 3 times"):
            await allowed.fetch(web.url("/0"))


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:{port}/a.png",
        "http://localhost:{port}/a.png",
        "//other.test/a.png",
        "file:///etc/passwd",
        "https://pictures.test:{port}/a.png",
        "http://user:pass@pictures.test:{port}/a.png",
        "http://[::1/",
        "\x80\xff://",
    ],
)
async def test_redirects_elsewhere_are_refused(location: str) -> None:
    async with serving() as web, sources(web) as allowed:
        line = "Location: " + location.format(port=web.port)
        web.answers["/1"] = (
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n" + line.encode("latin-1") + b"\r\n\r\n"
        )
        with pytest.raises(InvalidInput, match=r"^image_url: "):
            await allowed.fetch(web.url("/1"))
    assert len(web.requests) == 1


async def test_a_redirect_to_a_host_that_became_private_is_refused() -> None:
    async with serving() as web, sources(web, ["127.0.0.1"], ["10.0.0.5"]) as allowed:
        web.answers["/1"] = answer(b"", "302 Found", f"Location: {web.url('/a.png', 'eu.cdn.test')}")
        with pytest.raises(InvalidInput, match=r"not public \(10\.0\.0\.5\)"):
            await allowed.fetch(web.url("/1"))


async def endless(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"100000\r\n" + bytes(2**20) + b"\r\n")
        await writer.drain()


async def drop_by_drop(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless_head(path: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Header: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def hundreds_of_continues(path: str, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (answer(b"", length=MAX_IMAGE_BYTES + 1), TooLarge, "16777217 bytes exceed"),
        (answer(b"", length=10**12), TooLarge, "exceed"),
        (endless, TooLarge, "bytes or more exceed"),
        (
            answer(gzip.compress(bytes(10**7)), "200 OK", "Content-Encoding: gzip"),
            InvalidInput,
            "sent as gzip",
        ),
        (answer(PNG, "200 OK", "Content-Encoding: br"), InvalidInput, "sent as br"),
        (answer(b""), InvalidInput, "holds no bytes"),
        (answer(PNG, "404 Not Found"), InvalidInput, "answered with 404"),
        (answer(PNG, "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"'), InvalidInput, "with 401"),
        (answer(PNG[:9], "206 Partial Content"), InvalidInput, "answered with 206"),
        (answer(b"", "302 Found"), InvalidInput, "answered with 302"),
        (answer(b"", "503 Service Unavailable"), Unavailable, "answered with 503, after one try"),
        (answer(PNG, length=len(PNG) + 5), Unavailable, "does not speak HTTP"),
        (b"\x00\xff rubbish\r\n\r\n", Unavailable, "does not speak HTTP"),
        (b"", Unavailable, "does not speak HTTP"),
        (endless_head, Unavailable, "does not speak HTTP"),
        (drop_by_drop, Unavailable, "took longer than 0.4 s"),
        (hundreds_of_continues, Unavailable, "took longer than 0.4 s"),
    ],
)
async def test_bad_answers_end_in_bounded_time_and_bytes(
    given: bytes | Handler, error: type[RepcenterError], message: str
) -> None:
    async with serving() as web, sources(web, timeout_s=0.4 if error is Unavailable else 20) as allowed:
        web.answers["/a.png?signature=s3cret"] = given
        with pytest.raises(error, match=message) as raised:
            await allowed.fetch(web.url("/a.png?signature=s3cret"))
    assert str(raised.value).startswith("image_url: ")
    assert "s3cret" not in str(raised.value)


async def test_a_failure_that_passes_is_tried_again_and_one_that_stays_is_not() -> None:
    async with serving() as web, sources(web, attempts=3) as allowed:
        web.once = [answer(b"", "503 Service Unavailable"), b""]
        web.answers["/a.png"] = answer(PNG)
        assert await allowed.fetch(web.url("/a.png")) == PNG
        assert len(web.requests) == 3
        with pytest.raises(InvalidInput, match="404"):
            await allowed.fetch(web.url("/none.png"))
        assert len(web.requests) == 4
        web.once = [answer(b"", "500 Oops")] * 3
        with pytest.raises(Unavailable, match="answered with 500, after 3 tries"):
            await allowed.fetch(web.url("/a.png"))


async def test_a_server_that_is_not_there_and_a_name_without_address() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        web = WebServer(held.getsockname()[1])
        async with sources(web) as allowed:
            with pytest.raises(Unavailable, match="could not be reached"):
                await allowed.fetch(web.url("/a.png"))
        async with sources(web, []) as allowed:
            with pytest.raises(Unavailable, match="has no address"):
                await allowed.fetch(web.url("/a.png"))


async def test_tls_is_verified_against_the_name_in_the_url(tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "certificates")
    trusted = ssl.create_default_context(cafile=str(made.ca))
    for host, certificate, key in (
        ("localhost", made.server, made.server_key),
        ("localhost", made.elsewhere, made.elsewhere_key),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        async with serving(context) as web:
            limits = FetchLimits(origins=(f"{host}:{web.port}",), networks=LOOPBACK, attempts=1)
            web.answers["/a.png"] = answer(PNG)
            async with PictureSources(limits, resolver=resolver(["127.0.0.1"]), tls=trusted) as allowed:
                if certificate == made.server:
                    assert await allowed.fetch(f"https://{host}:{web.port}/a.png") == PNG
                else:
                    with pytest.raises(Unavailable, match=r"(?i)certificate"):
                        await allowed.fetch(f"https://{host}:{web.port}/a.png")


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.com", "https://", "ftp://a.b", "a.b/path", "a.b/", "user@a.b", "a b", "*.127.0.0.1", "a..b",
     "-a.b", "*.*.a.b", "http://*", "a.b:99999", "a.b?x"],
)  # fmt: skip
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(InvalidInput, match="image_url_origins"):
        parse_origin(text, "image_url_origins")


def test_origins_allow_what_they_say() -> None:
    allows = [
        ("cdn.example.com", "https://CDN.example.com/a", True),
        ("cdn.example.com", "https://cdn.example.com:443/a", True),
        ("cdn.example.com", "http://cdn.example.com/a", False),
        ("*.example.com", "https://a.b.example.com/a", True),
        ("*.example.com", "https://example.com/a", False),
        ("http://[2606:4700::1]:8080", "http://[2606:4700::1]:8080/a", True),
        ("http://10.0.0.1", "http://10.0.0.1/a", True),
    ]
    for text, url, expected in allows:
        assert parse_origin(text, "f").allows(web_address(url)) is expected, (text, url)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """root/a.png, links out of it, a pipe, a directory; secret.png beside it."""
    made = tmp_path / "pictures"
    (made / "deep").mkdir(parents=True)
    (tmp_path / "pictures2").mkdir()
    for path in (made / "a.png", made / "deep" / "ü %2e b.png", tmp_path / "secret.png"):
        path.write_bytes(PNG)
    (tmp_path / "pictures2" / "a.png").write_bytes(PNG)
    (made / "inside.png").symlink_to(made / "a.png")
    (made / "outside.png").symlink_to(tmp_path / "secret.png")
    (made / "up").symlink_to(tmp_path)
    (made / "empty.png").write_bytes(b"")
    os.mkfifo(made / "pipe")
    with (made / "huge.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    return made


async def test_paths_below_a_root_are_read(root: Path) -> None:
    linked = root.parent / "link"
    linked.symlink_to(root)
    async with PictureSources(FetchLimits(roots=(str(root), f"file://{linked}/"))) as allowed:
        for url in (f"{root}/a.png", f"file://{root}/a.png", f"local://{root}/a.png", f"{linked}/inside.png"):
            assert await allowed.fetch(url) == PNG
        assert await allowed.fetch(f"{root}/deep/ü %2e b.png") == PNG


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("{root}/../secret.png", InvalidInput, "dots as parts"),
        ("{root}/./a.png", InvalidInput, "dots as parts"),
        ("{root}//a.png", InvalidInput, "empty parts"),
        ("{root}/", InvalidInput, "empty parts"),
        ("{root}", InvalidInput, "no root"),
        ("{root}2/a.png", InvalidInput, "no root"),
        ("{root}/%2e%2e/secret.png", InvalidInput, "FileNotFoundError"),
        ("{root}/outside.png", InvalidInput, "leads out of the roots"),
        ("{root}/up/secret.png", InvalidInput, "leads out of the roots"),
        ("{root}/pipe", InvalidInput, "is not a file"),
        ("{root}/deep", InvalidInput, "IsADirectoryError|is not a file"),
        ("{root}/none.png", InvalidInput, "FileNotFoundError"),
        ("{root}/a.png/b", InvalidInput, "NotADirectoryError"),
        ("{root}/empty.png", InvalidInput, "no bytes"),
        ("{root}/huge.png", TooLarge, "bytes or more exceed"),
        ("/proc/self/environ", InvalidInput, "no root"),
        ("/dev/zero", InvalidInput, "no root"),
        ("file:{root}/a.png", InvalidInput, "must be"),
        ("file://relative/a.png", InvalidInput, "absolute"),
        ("simplecache::file://{root}/a.png", InvalidInput, "path of an object"),
        ("zip://a.png::{root}/a.zip", InvalidInput, "path of an object"),
        ("memory://{root}/a.png", InvalidInput, "."),
        ("{root}\\a.png", InvalidInput, "path of an object"),
        ("{root}/a.png\0", InvalidInput, "control characters"),
    ],
)
async def test_paths_elsewhere_are_refused(
    root: Path, path: str, error: type[RepcenterError], message: str
) -> None:
    async with PictureSources(FetchLimits(roots=(str(root),), attempts=1)) as allowed:
        with pytest.raises(error, match=message) as raised:
            await allowed.fetch(path.format(root=root))
    assert str(raised.value).startswith("image_url: ")


async def test_objects_of_a_store_are_read_below_their_root() -> None:
    store = fsspec.filesystem("memory")
    store.pipe({"/bucket/pictures/a.png": PNG, "/bucket/secret.png": PNG, "/bucket/pictures/empty": b""})
    store.pipe("/bucket/pictures/huge", bytes(MAX_IMAGE_BYTES + 1))
    try:
        async with PictureSources(FetchLimits(roots=("memory://bucket/pictures",), attempts=1)) as allowed:
            assert await allowed.fetch("memory://bucket/pictures/a.png") == PNG
            for url, error in (
                ("memory://bucket/secret.png", InvalidInput),
                ("memory://bucket/pictures/../secret.png", InvalidInput),
                ("memory://bucket/pictures/none.png", InvalidInput),
                ("memory://bucket/pictures/empty", InvalidInput),
                ("memory://bucket/pictures/huge", TooLarge),
            ):
                with pytest.raises(error, match=r"^image_url: "):
                    await allowed.fetch(url)
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.parametrize("text", ["", "relative", "http://a.b/c", "nosuchstore://a", "s3://a/../b", "a::/b"])
def test_what_is_no_root(text: str) -> None:
    with pytest.raises(InvalidInput, match="image_roots"):
        PictureSources(FetchLimits(roots=(text,)))


async def test_pictures_are_fetched_then_decoded_and_failures_stay_with_their_item(root: Path) -> None:
    items = [
        Item("bytes", image=PNG),
        Item("path", image_url=f"{root}/a.png"),
        Item("none", image_url=f"{root}/none.png"),
        Item("text", {"title": "Heat"}),
        Item("no picture", image=b"x"),
    ]
    async with (
        PictureSources(FetchLimits(roots=(str(root),))) as allowed,
        DecodePool(0) as decoders,
    ):
        found = await PictureLoader(allowed, decoders).load(items, (32, 48))
    assert sorted(found) == [0, 1, 2, 4]
    assert (found[0] == found[1]).all()  # type: ignore[union-attr]
    assert [str(found[i]).partition(":")[0] for i in (2, 4)] == ["image_url", "image"]
