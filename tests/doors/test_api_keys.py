"""Keys by role: parsed, compared, read again; never in a message."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import Forbidden, InvalidInput, Unauthenticated
from doors import api_keys
from doors.api_keys import ApiKeys, Role, shown_key
from doors.protection import protection
from doors.settings import DoorSettings

SCORE, PUSH, ADMIN = "score-0123456789", "push-0123456789a", "admin-0123456789"
HASHED = "sha256:" + hashlib.sha256(ADMIN.encode()).hexdigest()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    ("key", "role", "error"),
    [
        (SCORE, "score", None),
        (PUSH, "push", None),
        (ADMIN, "score", None),
        (ADMIN, "push", None),
        (SCORE, "push", Forbidden),
        (PUSH, "score", Forbidden),
        (SCORE[:-1], "score", Unauthenticated),
        (HASHED, "score", Unauthenticated),  # a digest is no key
        ("\0{ü}" * 2_000, "score", Unauthenticated),
    ],
)
def test_roles(key: str, role: Role, error: type[Exception] | None) -> None:
    keys = ApiKeys(f"score {SCORE}, push {PUSH}, admin {HASHED}", None)
    for headers in (bearer(key), {"x-api-key": key}):
        if error is None:
            keys.check(headers, role)
        else:
            with pytest.raises(error) as caught:
                keys.check(headers, role)
            assert key not in str(caught.value)


def test_how_a_key_is_shown() -> None:
    assert shown_key({"authorization": "bearer  a b "}) == "a b"
    assert shown_key({"authorization": "Bearer x", "x-api-key": "y"}) == "y"
    assert shown_key({}) is None
    for value in ("Basic eDp5", "Bearer ", ""):
        assert shown_key({"authorization": value}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score", "then a key"),
        ("root 0123456789abcdef", "then a key"),
        ("score 0123456789 abcdef", "then a key"),
        ("score 0123456789abcde", "16 characters"),
        ("score sha256:00ff", "16 characters"),
        (f"score {SCORE}, push {SCORE}", "twice"),
        (" , ", "holds no key"),
        ("", "holds no key"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        ApiKeys(text, None)
    assert "0123456789" not in str(caught.value)


def test_a_file_is_read_again_and_a_broken_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(api_keys, "_LOOK_EVERY_S", 0.0)
    file = tmp_path / "keys"
    file.write_text(f"# the shop\nscore {SCORE}  # front page\n\n")
    keys = ApiKeys(None, file)
    keys.check(bearer(SCORE), "score")
    file.write_text(f"score {SCORE}-2\npush {PUSH}\n")
    keys.check(bearer(PUSH), "push")
    with pytest.raises(Unauthenticated):
        keys.check(bearer(SCORE), "score")
    with caplog.at_level(logging.ERROR):
        file.write_text("score short\n")
        keys.check(bearer(PUSH), "push")
        file.unlink()
        keys.check(bearer(PUSH), "push")
    assert "the API keys of before stay" in caplog.text
    assert "short" not in caplog.text
    with pytest.raises(InvalidInput, match="api_keys_file"):
        ApiKeys(None, file)


def test_settings_that_do_not_belong_together(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("not PEM")
    assert protection(DoorSettings(), "score").keys is None
    cases: list[tuple[dict[str, Any], str]] = [
        ({"door_tls_cert_file": pem}, "door_tls_key_file"),
        ({"door_tls_key_file": pem}, "door_tls_cert_file"),
        ({"door_tls_client_ca_file": pem}, "door_tls_cert_file"),
        ({"door_tls_cert_file": pem, "door_tls_key_file": pem}, "door_tls_key_file"),
    ]
    for given, field in cases:
        with pytest.raises(InvalidInput, match=field):
            protection(DoorSettings(**given), "score")
    assert SCORE not in repr(DoorSettings.model_validate({"api_keys": f"score {SCORE}"}))
