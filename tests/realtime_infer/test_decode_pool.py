"""Decoders that are killed, hang, or take too much: their picture is refused or retried, the others go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InvalidInput, Overloaded, RepcenterError, TooLarge, Unavailable
from contracts.images import decode_pixels
from contracts.items import Item
from realtime_infer.decode_pool import DecodeLimits, DecodePool
from realtime_infer.pictures import decode_here
from tests.contracts import pictures
from tests.realtime_infer.workers import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="decoders are found through /proc")
SIZE = (32, 48)
SMALL = pictures.saved(pictures.photo(), "PNG")
SLOW = pictures.jpeg_of_scans(90, 4_608)  # half a second or more
LARGE = pictures.flat_png(6_300, 6_300, depth=16, colour=6)


def decoders(owner: int | None = None) -> list[int]:
    """The processes of this process's (or that owner's) decoders."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == (owner or os.getpid()) and b"decode_process" in command and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found


async def busy(pid: int) -> None:
    """Wait until it is in the middle of the slow picture: it has used more time than a start takes."""

    async def done() -> bool:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12]) >= 0.35 * os.sysconf("SC_CLK_TCK")

    await until(done)


async def test_pixels_and_refusals_are_those_of_the_same_process() -> None:
    samples = [*pictures.readable().values(), *pictures.refused().values()]
    items = [Item(str(i), image=data) for i, data in enumerate(samples)]
    items.insert(3, Item("no picture", {"title": "Heat"}))
    expected = decode_here(items, SIZE)
    async with DecodePool(2) as pool:
        found = await pool.pictures(items, SIZE)
    assert found.keys() == expected.keys() == set(range(len(items))) - {3}
    for i, here in expected.items():
        there = found[i]
        if isinstance(here, RepcenterError):
            assert isinstance(there, RepcenterError)
            assert (type(there), str(there), there.code) == (type(here), str(here), here.code)
            assert getattr(there, "field", None) == "image"
        else:
            np.testing.assert_array_equal(there, here)
    assert decoders() == []


async def test_without_processes_pictures_are_decoded_in_this_one() -> None:
    async with DecodePool(0) as pool:
        found = await pool.pictures([Item("a", image=SMALL), Item("b", image=b"x")], SIZE)
        assert decoders() == []
    np.testing.assert_array_equal(found[0], decode_pixels(SMALL, *SIZE))
    assert isinstance(found[1], InvalidInput)


async def test_a_decoder_has_no_secrets_and_no_models() -> None:
    os.environ["REPCENTER_SECRET"] = "s3cret"
    try:
        async with DecodePool(1) as pool:
            await pool.decode(SMALL, SIZE)
            (pid,) = decoders()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            mapped = Path(f"/proc/{pid}/maps").read_text()
            limits = Path(f"/proc/{pid}/limits").read_text()
    finally:
        del os.environ["REPCENTER_SECRET"]
    assert b"s3cret" not in environment
    assert "onnxruntime" not in mapped
    assert "torch" not in mapped
    lines = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert lines["Max file size"] == lines["Max core file size"] == "0"
    assert lines["Max address space"] != "unlimited"


async def test_a_decoder_killed_by_something_else_costs_nothing() -> None:
    deaths: list[int] = []
    async with DecodePool(1, died=lambda: deaths.append(1)) as pool:
        (pid,) = decoders()
        decoding = asyncio.create_task(pool.decode(SLOW, SIZE))
        await busy(pid)
        os.kill(pid, signal.SIGKILL)
        np.testing.assert_array_equal(await decoding, decode_pixels(SLOW, *SIZE))
        assert len(deaths) == 1
        assert pid not in decoders()


async def test_a_picture_that_kills_its_decoder_twice_is_refused_alone() -> None:
    items = [Item("a", image=SMALL), Item("poison", image=SLOW), Item("b", image=SMALL)]
    async with DecodePool(1) as pool:
        (first,) = decoders()
        decoding = asyncio.create_task(pool.pictures(items, SIZE))
        await busy(first)
        os.kill(first, signal.SIGKILL)

        async def replaced() -> bool:
            return any(pid != first for pid in decoders())

        await until(replaced)
        (second,) = (pid for pid in decoders() if pid != first)
        await busy(second)
        os.kill(second, signal.SIGKILL)
        found = await decoding
    assert str(found[1]).startswith("image: ended the process that decoded it (signal SIGKILL) 2 times (got ")
    for i in (0, 2):
        np.testing.assert_array_equal(found[i], decode_pixels(SMALL, *SIZE))


async def test_a_decoder_that_hangs_is_replaced() -> None:
    async with DecodePool(1, DecodeLimits(wall_s=0.5)) as pool:
        (pid,) = decoders()
        os.kill(pid, signal.SIGSTOP)
        np.testing.assert_array_equal(await pool.decode(SMALL, SIZE), decode_pixels(SMALL, *SIZE))
        assert pid not in decoders()


async def test_a_picture_that_takes_too_much_processor_time_is_refused_at_once() -> None:
    deaths: list[int] = []
    async with DecodePool(1, DecodeLimits(cpu_s=0.1, wall_s=60), died=lambda: deaths.append(1)) as pool:
        found = await pool.pictures([Item("slow", image=SLOW), Item("a", image=SMALL)], SIZE)
    assert str(found[0]).startswith("image: took more than 0.1 s of processor time to decode (got ")
    np.testing.assert_array_equal(found[1], decode_pixels(SMALL, *SIZE))
    assert len(deaths) == 1


async def test_a_picture_that_needs_too_much_memory_is_refused() -> None:
    async with DecodePool(1, DecodeLimits(memory_mb=48)) as pool:
        found = await pool.pictures([Item("large", image=LARGE), Item("a", image=SMALL)], SIZE)
    assert str(found[0]).startswith("image: needed more than 48 MiB to be decoded 2 times (got ")
    np.testing.assert_array_equal(found[1], decode_pixels(SMALL, *SIZE))


async def test_more_bytes_than_allowed_are_not_even_sent() -> None:
    async with DecodePool(1) as pool:
        with pytest.raises(TooLarge, match="image: "):
            await pool.decode(bytes(16 * 2**20 + 1), SIZE)


async def test_the_queue_is_bounded_and_closing_drains_it() -> None:
    pool = await DecodePool(1, max_waiting=2).__aenter__()
    decoding = [asyncio.create_task(pool.decode(SMALL, SIZE)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="2 pictures wait"):
        await pool.decode(SMALL, SIZE)
    await pool.aclose()
    for pixels in await asyncio.gather(*decoding):
        np.testing.assert_array_equal(pixels, decode_pixels(SMALL, *SIZE))
    assert decoders() == []
    with pytest.raises(Unavailable, match="closed"):
        await pool.decode(SMALL, SIZE)
    await pool.aclose()


async def test_a_cancelled_picture_leaves_the_pool_usable() -> None:
    async with DecodePool(1) as pool:
        (pid,) = decoders()
        decoding = asyncio.create_task(pool.pictures([Item("a", image=SLOW)], SIZE))
        await busy(pid)
        decoding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decoding
        np.testing.assert_array_equal(await pool.decode(SMALL, SIZE), decode_pixels(SMALL, *SIZE))


@pytest.mark.parametrize("use", [lambda pool: pool.decode(SMALL, SIZE), lambda pool: pool.__aenter__()])
async def test_decoders_that_do_not_start_blame_no_picture(
    use: Callable[[DecodePool], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match=r"did not start \(exit status 1\)"):
        await use(DecodePool(1))


OWNER = """
import asyncio, sys
from realtime_infer.decode_pool import DecodePool
async def main():
    async with DecodePool(2):
        print("open", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_decoders_do_not_outlive_their_owner() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "open\n"
        left = decoders(owner.pid)
        owner.kill()

    async def gone() -> bool:
        return not any(Path(f"/proc/{pid}/cmdline").exists() for pid in left)

    assert len(left) == 2
    await until(gone)
