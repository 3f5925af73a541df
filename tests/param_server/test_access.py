"""The users of a server: what each role is refused. What they need is proven by the flows: test_access.py of
serving and of realtime_infer."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis.asyncio import Redis

from cli import events, table, table_load
from cli.generations import print_generations
from contracts.codec import ID_INT8
from contracts.errors import InvalidInput, NotPermitted, Unavailable
from contracts.manifest import IdTable
from param_server import keys
from param_server.access import ADMIN, ENCODER, ROLES, SCORER, Role, users_file
from param_server.behaviours import Behaviours
from param_server.collection import collect, plan_collection
from param_server.connection import connect_one, redis_errors
from param_server.embedded import EmbeddedServer
from param_server.generations import Generations
from param_server.id_rows import write_id_rows
from param_server.pins import Pins
from param_server.server_checks import check_durable, check_layout
from param_server.settings import GenerationSettings, StoreSettings
from param_server.store import Store
from realtime_infer.stream_keys import Partition
from tests.access import PASSWORDS, guarded, guarded_server, url_of
from tests.param_server.samples import make_id_rows, make_space, make_window

ROOT = Path(__file__).parents[2]
SPACE = make_space()


@pytest.fixture(params=["embedded", "redis-server"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    binary = None
    if request.param == "redis-server":
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not installed")
        binary = Path(found)
    with guarded_server(tmp_path / "guarded", binary) as running:
        yield running


def client(server: EmbeddedServer, role: Role) -> Redis:
    return connect_one(url_of(server, role.name), StoreSettings())


async def test_a_scorer_reads_and_can_write_nothing(server: EmbeddedServer) -> None:
    async with client(server, ADMIN) as admin, client(server, SCORER) as redis:
        await Store(admin).create_space(SPACE)
        await Store(admin).commit_window(make_window(SPACE, ["a"], [1]))
        store = Store(redis)
        assert (await store.fetch(SPACE, None, ["a"])).found.all()
        assert await store.space(SPACE.id) == SPACE
        with pytest.raises(NotPermitted, match=r"run: ACL SETUSER <user> \+evalsha"):
            await store.commit_window(make_window(SPACE, ["a"], [2]))
        with pytest.raises(NotPermitted):
            await Generations(redis).activate("default", "g")
        with pytest.raises(NotPermitted):
            await Behaviours(redis).forget("u")
        bucket = keys.records(SPACE.id, SPACE.buckets).key_of(b"a").decode()
        writes: tuple[tuple[str, ...], ...] = (
            ("HSET", bucket, "a", "x"),
            ("HDEL", bucket, "a"),
            ("DEL", bucket),
            ("UNLINK", bucket),
            ("HSET", "rc2:{c}:scenes", "default", "x"),
            ("EVAL", "return redis.call('DEL', KEYS[1])", "1", bucket),
            ("FLUSHALL",),
            ("XADD", "rc2:w:" + SPACE.id, "*", "w", "x"),
            ("CONFIG", "SET", "appendonly", "no"),
            ("ACL", "SETUSER", SCORER.user, "allcommands"),
        )
        for command in writes:
            with pytest.raises(NotPermitted):
                async with redis_errors("write"):
                    await redis.execute_command(*command)  # type: ignore[no-untyped-call]
        for key in (Partition().pushes, Partition().status(b"a")):  # what was pushed is none of its business
            with pytest.raises(NotPermitted, match="repcenter table acl"):
                async with redis_errors("read a push"):
                    await redis.hgetall(key.decode())
        assert (await store.fetch(SPACE, None, ["a"])).records["sequence"].tolist() == [1]


async def test_no_command_of_a_scorer_writes(server: EmbeddedServer) -> None:
    async with connect_one(url_of(server, "admin"), StoreSettings()) as redis:
        listed = {name for name in SCORER.commands if "|" not in name}
        infos = await redis.execute_command("COMMAND")  # type: ignore[no-untyped-call]
        rows = infos.items() if isinstance(infos, dict) else [(i[0].decode(), {"flags": i[2]}) for i in infos]
        flags = {str(name).lower(): {str(flag) for flag in row["flags"]} for name, row in rows}
        assert listed <= set(flags)
        assert [name for name in listed if any("write" in flag for flag in flags[name])] == []


async def test_an_encoder_moves_no_scene_and_deletes_no_table(server: EmbeddedServer) -> None:
    async with client(server, ENCODER) as redis:
        store = Store(redis)
        await store.create_space(SPACE)
        assert (await store.commit_window(make_window(SPACE, ["a"], [1]))).all()
        with pytest.raises(NotPermitted):
            await Generations(redis).activate("default", "g")
        with pytest.raises(NotPermitted):
            await store.seal_id_table(IdTable("t", ID_INT8, 8, 0))
        for command in (
            ("HSET", "rc2:{c}:generations", "g", "x"),
            ("FLUSHDB",),
            ("UNLINK", "rc2:{c}:spaces"),
        ):
            with pytest.raises(NotPermitted):
                async with redis_errors("write"):
                    await redis.execute_command(*command)  # type: ignore[no-untyped-call]


async def test_who_has_no_password_may_ping_only(server: EmbeddedServer) -> None:
    async with connect_one(server.url, StoreSettings()) as redis:
        assert await redis.ping()
        with pytest.raises(NotPermitted, match=r"\+hgetall"):
            await Store(redis).spaces()
    wrong = server.url.replace("unix://", f"unix://{ADMIN.user}:wrong-password@")
    async with connect_one(wrong, StoreSettings()) as redis:
        with pytest.raises(Unavailable) as refused:
            await Store(redis).spaces()
        assert "wrong-password" not in str(refused.value)


async def test_checks_that_are_refused_say_the_rule_that_is_missing(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(server, SCORER) as redis:
        with pytest.raises(Unavailable, match=r"run: ACL SETUSER <user> \+config\|get"):
            await check_durable(redis)
        await check_layout(redis, 400)
        assert "ACL SETUSER <user> +config|get" in caplog.text
    async with client(server, ENCODER) as redis:
        assert await check_durable(redis) == "always"


async def test_the_file_of_deploy_is_made_by_the_code_and_lets_nobody_in(tmp_path: Path) -> None:
    users = ROOT / "deploy" / "users.acl"
    assert users.read_text() == users_file({})
    with EmbeddedServer.start(tmp_path / "s", extra_args=("--aclfile", str(users))) as server:
        for role in ROLES.values():
            for password in ("", "CHANGE-ME", PASSWORDS[role.name].replace(" ", "%20")):
                url = server.url.replace("unix://", f"unix://{role.user}:{password}@")
                async with connect_one(url, StoreSettings()) as redis:
                    with pytest.raises(Unavailable):
                        await Store(redis).spaces()


def test_an_admin_loads_looks_exports_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, records, log = tmp_path / "v.parquet", tmp_path / "records.parquet", tmp_path / "log.parquet"
    rows, exported = tmp_path / "rows.parquet", tmp_path / "exported.parquet"
    values = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    ids = [f"i{n}" for n in range(30)]
    lists = pa.array(list(values), pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": ids, "text": lists}), vectors)
    write_id_rows(rows, ids, make_id_rows(30))
    pq.write_table(pa.table({"user_id": ["u"] * 30, "item_id": ids, "timestamp": list(range(30))}), log)
    var = tmp_path / "var"
    with guarded(tmp_path) as servers:
        monkeypatch.setenv("REPCENTER_REDIS_URL", url_of(servers.tables, "admin"))
        monkeypatch.setenv("REPCENTER_STREAM_URL", url_of(servers.streams, "admin"))
        for _ in range(2):  # the second one resumes and repairs
            table_load.load_vectors(var, vectors, "clip", "1", "int8", [], None, None, False, True)
        table_load.load_table(var, rows, "rows-1", False, True)
        table.print_tables(var, True, True)
        table.print_item(var, "i3", None, None, True)
        table.export_table(var, records, None, None, True)
        table.export_table(var, exported, None, "rows-1", True)
        table.verify_table(var, records, None, None, True)
        table.verify_table(var, exported, "rows-1", None, True)
        table_load.load_table(var, records, None, True, True)
        print_generations(var, True)
        events.import_file(var, log, None)
        events.show(var, "u", True)
    printed = capsys.readouterr().out
    assert '"matched": 30' in printed or '"rows": 30' in printed
    assert '"item_id": "i29"' in printed.splitlines()[-1]


async def test_an_admin_pins_and_collects(tmp_path: Path) -> None:
    at_once = GenerationSettings(collect_grace_s=0, collect_unpublished_s=0, collect_keep=0)
    with guarded_server(tmp_path / "s") as server:
        async with client(server, ADMIN) as redis, client(server, ENCODER) as encoder:
            store, unused = Store(redis), IdTable("unused", ID_INT8, 16, 3)
            await store.create_space(SPACE)
            await store.commit_window(make_window(SPACE, ["a"], [7]))
            await store.load_id_rows(unused, ["a", "b", "c"], make_id_rows(3))
            await store.seal_id_table(unused)
            await Pins(redis).pin(SPACE.id, "for the test")
            assert str((await plan_collection(redis, at_once))[0]) != ""
            await collect(redis, at_once, settle_s=0, lease_s=0.5)
            assert [space.id for space in await store.spaces()] == [SPACE.id]
            await Pins(redis).unpin(SPACE.id)
            await collect(redis, at_once, settle_s=0, lease_s=0.5)
            assert await store.spaces() == []
            assert await store.high_water() == 7
            with pytest.raises(NotPermitted):
                await Pins(encoder).pin(SPACE.id, "no")
            with pytest.raises(NotPermitted):
                await collect(encoder, at_once, settle_s=0, lease_s=0.5)


def test_rules_hold_digests_and_refuse_short_passwords() -> None:
    text = users_file(PASSWORDS)
    assert not any(password in text for password in PASSWORDS.values())
    assert text.count(" on resetpass #") == 3
    with pytest.raises(InvalidInput, match="acl_scorer_password: must have 16 characters or more") as refused:
        users_file({"scorer": "short-and-weak"})
    assert "short-and-weak" not in str(refused.value)


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("REPCENTER_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "table", "acl", *words],
        cwd=ROOT,
        env=ours | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_command_draws_passwords_that_work(tmp_path: Path) -> None:
    given = {"REPCENTER_ACL_ADMIN_PASSWORD": "given by the operator"}
    drawn = tmp_path / "passwords.env"
    done = run("--generate", str(drawn), "--setuser", **given)
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE(drawn.stat().st_mode) == 0o600
    passwords = dict(line.split("=", 1) for line in drawn.read_text().splitlines())
    assert set(passwords) == {"REPCENTER_ACL_SCORER_PASSWORD", "REPCENTER_ACL_ENCODER_PASSWORD"}
    assert all(len(password) >= 32 and password not in done.stdout for password in passwords.values())
    with EmbeddedServer.start(tmp_path / "s") as server:
        async with connect_one(server.url, StoreSettings()) as redis:
            lines = done.stdout.splitlines()
            for line in [*lines[1:], lines[0]]:  # the default user last: it is who speaks
                await redis.execute_command(*line.split())  # type: ignore[no-untyped-call]
        scorer = passwords["REPCENTER_ACL_SCORER_PASSWORD"]
        url = server.url.replace("unix://", f"unix://{SCORER.user}:{scorer}@")
        async with connect_one(url, StoreSettings()) as redis:
            assert await Store(redis).spaces() == []
    again = run("--generate", str(drawn))
    assert again.returncode == 1
    assert "must be a new file" in again.stderr
    assert run(REPCENTER_ACL_ADMIN_PASSWORD="weak").returncode == 1


def test_the_command_prints_the_file_and_json() -> None:
    plain = run()
    assert plain.stdout == users_file({})
    assert "off, for want of a password: scorer, encoder, admin" in plain.stderr
    document = json.loads(run("--json").stdout)
    assert set(document["roles"]) == set(ROLES)
    assert document["roles"]["scorer"]["writes"] == []
    assert re.search(r"^off resetpass ", document["roles"]["admin"]["rules"])
