"""`repcenter table acl`: the users of a Redis or Valkey server, one per role."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

from contracts.errors import InvalidInput
from param_server.access import DEFAULT_USER, ROLES, checked, users_file
from param_server.settings import AccessSettings


def print_access(generate: Path | None, setuser: bool, before_7_2: bool, as_json: bool) -> None:
    """Rules of every role. Passwords come from the settings or are drawn; only their digests are printed."""
    given = AccessSettings()
    passwords = {
        role: secret.get_secret_value()
        for role in ROLES
        if (secret := getattr(given, f"acl_{role}_password")) is not None
    }
    for role, password in passwords.items():
        checked(role, password)
    if generate is not None:
        drawn = {role: secrets.token_urlsafe(32) for role in ROLES if role not in passwords}
        _write(generate, drawn)
        passwords |= drawn
    if as_json:
        print(json.dumps({"default": DEFAULT_USER, "roles": _roles(passwords, before_7_2)}))
    elif setuser:
        for line in users_file(passwords, before_7_2=before_7_2).splitlines():
            print("ACL SETUSER", line.removeprefix("user "))
    else:
        print(users_file(passwords, before_7_2=before_7_2), end="")
    off = [role for role in ROLES if role not in passwords]
    if off:
        print(
            f"off, for want of a password: {', '.join(off)} "
            "(--generate FILE, or REPCENTER_ACL_<ROLE>_PASSWORD)",
            file=sys.stderr,
        )


def _roles(passwords: dict[str, str], before_7_2: bool) -> dict[str, object]:
    return {
        name: {
            "user": role.user,
            "about": role.about,
            "commands": list(role.commands),
            "reads": list(role.reads),
            "writes": list(role.writes),
            "rules": role.rules(passwords.get(name), before_7_2=before_7_2),
        }
        for name, role in ROLES.items()
    }


def _write(path: Path, passwords: dict[str, str]) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(
                f"REPCENTER_ACL_{role.upper()}_PASSWORD={text}\n" for role, text in passwords.items()
            )
    except OSError as error:
        raise InvalidInput("--generate", str(path), f"must be a new file: {error.strerror}") from error
