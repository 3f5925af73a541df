"""Web addresses of pictures, and the origins that an operator allows.

An origin is `cdn.example.com` (https, port 443), `*.example.com` (every host below it, not itself), or with
scheme and port: `http://pictures.internal:8080`. There is no origin that allows all hosts.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from contracts.errors import InvalidInput
from contracts.items import MAX_URL_CHARACTERS

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
_MAX_HOST = 253
_FIELD = "image_url"


@dataclass(frozen=True)
class WebAddress:
    """One URL, taken apart. host: in lower case, an IPv6 literal without brackets. target: path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def place(self) -> str:
        """What may be shown and logged: a query may hold a signature."""
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}{port}{self.target.partition('?')[0]}"


@dataclass(frozen=True)
class Origin:
    """An allowed scheme, host and port. below: any host that ends in .host, and not host itself."""

    scheme: str
    host: str
    port: int
    below: bool

    def allows(self, address: WebAddress) -> bool:
        if (self.scheme, self.port) != (address.scheme, address.port):
            return False
        return address.host.endswith(f".{self.host}") if self.below else address.host == self.host


def parse_origin(text: str, field: str) -> Origin:
    """Raises InvalidInput that names the field."""
    address = text if "://" in text else f"https://{text}"
    below = "://*." in address
    try:
        parsed = web_address(address.replace("://*.", "://", 1), field)
    except InvalidInput as error:
        raise InvalidInput(field, text, f"is no origin: {error.reason}") from error
    if parsed.target != "/" or text.endswith("/"):
        raise InvalidInput(field, text, "must be a host, with scheme and port at most")
    if below and ("." not in parsed.host or _is_literal(parsed.host)):
        raise InvalidInput(field, text, "must name a domain of two labels or more behind *.")
    return Origin(parsed.scheme, parsed.host, parsed.port, below)


def web_address(url: str, field: str = _FIELD) -> WebAddress:
    """A URL that means one thing to every reader of URLs. Raises InvalidInput that names the field."""
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidInput(field, url, f"is longer than {MAX_URL_CHARACTERS} characters")
    if not url.isprintable() or "\\" in url or " " in url:
        raise InvalidInput(field, url, "must not hold blanks, backslashes or control characters")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise InvalidInput(field, url, f"is not a URL ({error})") from error
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise InvalidInput(field, url, "must have the scheme https or http")
    if "@" in parts.netloc:
        raise InvalidInput(field, f"{scheme}://…@{host}", "must not hold a user or a password")
    if not _is_literal(host) and (len(host) > _MAX_HOST or _HOST.fullmatch(host) is None):
        raise InvalidInput(field, host, "is no host name in ASCII letters, digits, hyphens and dots")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    target = f"{path}?{query}" if query else path
    return WebAddress(scheme, host, PORTS[scheme] if port is None else port, target)


def _is_literal(host: str) -> bool:
    try:
        return "%" not in host and bool(ipaddress.ip_address(host))
    except ValueError:
        return False
