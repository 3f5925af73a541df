"""Who may do what on a server: three roles, each with the commands and keys that its processes use.

A user of a role is made from `rules()`; `repcenter table acl` prints them. Tests run every flow of a role as
its user, so a command or key that code begins to use and its role lacks fails there, not in production.

In a rule `%R~pattern` may be read, `~pattern` also written. A script needs both for every key that it names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from redis.exceptions import NoPermissionError

from contracts.errors import InvalidInput

LEAST_PASSWORD = 16  # characters
USER_PREFIX = "repcenter-"
# Neither reads nor writes a key: the server may be asked to PING by who has no password.
DEFAULT_USER = "user default on nopass resetkeys resetchannels -@all +ping"

_ANY = ("ping", "select", "client|setinfo", "info", "command", "multi", "exec", "discard")
_CLUSTER = (
    "cluster|slots",
    "cluster|shards",
    "cluster|nodes",
    "cluster|myid",
    "asking",
    "readonly",
    "readwrite",
)
_READ = ("get", "hget", "hmget", "hgetall", "hvals", "hlen", "hscan", "smembers", "sismember")
_READ_STREAM = ("xread", "xrange", "xrevrange", "xlen", "xinfo|stream")
_SCRIPTS = ("evalsha", "eval", "script|load", "time")
_DURABLE = ("config|get", "command|list", "waitaof", "wait")
_SINCE_7_2 = ("client|setinfo", "waitaof")
_CONTROL = "rc2:{c}:*"
_CREATE = ("rc2:{c}:spaces", "rc2:{c}:used", "rc2:{c}:collecting")  # what creating a space looks at
_ROWS = ("rc2:r:*", "rc2:m:*")
_ID_ROWS = ("rc2:i:*", "rc2:t:*")
_USERS = ("rc2:u:*",)
_WINDOWS = ("rc2:w:*",)
_PUSHES = ("rc2:{p*",)  # of every partition, and how many there are


@dataclass(frozen=True)
class Role:
    """commands: as ACL rules name them, without the plus; reads, writes: patterns of keys."""

    name: str
    about: str
    commands: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def user(self) -> str:
        return USER_PREFIX + self.name

    def rules(self, password: str | None = None, *, before_7_2: bool = False) -> str:
        """What follows the user's name in ACL SETUSER and in a users file. None: the user is off.

        before_7_2: without what Redis 7.0 does not know; it would refuse the file.
        """
        login = "off resetpass" if password is None else f"on resetpass #{_digest(password)}"
        keys = [*(f"%R~{pattern}" for pattern in self.reads), *(f"~{pattern}" for pattern in self.writes)]
        commands = [f"+{name}" for name in self.commands if not before_7_2 or name not in _SINCE_7_2]
        return " ".join([login, "resetkeys", "resetchannels", *keys, "-@all", *commands])


SCORER = Role(
    "scorer",
    "reads tables, behaviours and window streams; writes nothing",
    (*_ANY, *_CLUSTER, *_READ, *_READ_STREAM),
    reads=(*_ROWS, *_ID_ROWS, *_USERS, *_WINDOWS, _CONTROL),
    writes=(),
)
ENCODER = Role(
    "encoder",
    "write door, worker, sink and backfill: content records, pushes, windows, behaviours; moves no scene",
    (
        *_ANY,
        *_CLUSTER,
        *_READ,
        *_READ_STREAM,
        *_SCRIPTS,
        *_DURABLE,
        *("set", "incr", "incrby", "decrby", "expire", "persist"),
        *("hset", "hsetnx", "hincrby", "hdel", "hstrlen", "hexists"),
        *("rpush", "ltrim", "lrange", "llen", "xadd", "xdel", "xack"),
        *("del", "exists", "xgroup|create", "xgroup|destroy", "xsetid", "xreadgroup", "xpending", "xclaim"),
    ),
    reads=(_CONTROL,),
    writes=(*_ROWS, *_USERS, *_WINDOWS, *_PUSHES, *_CREATE),
)
ADMIN = Role(
    "admin",
    "all of ours: create, load, publish, activate, collect, export; and what the others do",
    (
        *ENCODER.commands,
        *("sadd", "srem", "unlink", "pttl", "hkeys", "scan"),
        *("memory|usage", "memory|stats", "object|encoding"),
    ),
    reads=(),
    writes=("rc2:*",),
)
ROLES = {role.name: role for role in (SCORER, ENCODER, ADMIN)}


def users_file(passwords: Mapping[str, str], *, before_7_2: bool = False) -> str:
    """The file that `aclfile` names. passwords: by role; the users of other roles are off.

    Only digests of passwords are in it. Raises InvalidInput where one is too short to be one.
    """
    users = [
        f"user {role.user} {role.rules(checked(name, passwords.get(name)), before_7_2=before_7_2)}"
        for name, role in ROLES.items()
    ]
    return "\n".join([DEFAULT_USER, *users]) + "\n"


def checked(role: str, password: str | None) -> str | None:
    """The password, or InvalidInput, which does not show it."""
    if password is not None and len(password) < LEAST_PASSWORD:
        raise InvalidInput(f"acl_{role}_password", "…", f"must have {LEAST_PASSWORD} characters or more")
    return password


def missing_rule(error: Exception) -> str | None:
    """What a server's refusal for want of permission says is missing, with the rule that gives it; None where
    it refuses for another reason."""
    text = str(error)
    if not isinstance(error, NoPermissionError) and not any(sign in text for sign in _IN_SCRIPTS):
        return None
    command = re.search(r"run the '([a-z|_-]+)' command", text)
    if command is not None:
        return f"the user may not run {command[1].upper()}; run: ACL SETUSER <user> +{command[1]}"
    return "the user lacks a permission; run: repcenter table acl, which prints the rules of each role"


_IN_SCRIPTS = ("ACL failure in script", "The user executing the script can't")  # Valkey's words, and Redis's


def _digest(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()
