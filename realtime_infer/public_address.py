"""Which addresses a picture may be fetched from: public ones, and networks that the operator names.

IPv4: all but the special-purpose networks of IANA's registry. IPv6: global unicast (2000::/3) but for its
special-purpose networks; so mapped IPv4, NAT64, unique local, link-local and multicast addresses are out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from contracts.errors import InvalidInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "2001::/23",  # Teredo, ORCHID and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: holds an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")


def networks(texts: Sequence[str], field: str) -> tuple[Network, ...]:
    """Networks in CIDR notation. Raises InvalidInput that names the field."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise InvalidInput(field, text, "must be networks such as 10.1.0.0/16") from error
    return tuple(found)


def is_fetchable(address: str, allowed: Sequence[Network] = ()) -> bool:
    """Whether it is public or in an allowed network; False for what is no address, or one with a zone."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id is not None:
        return False
    if any(ip in network for network in allowed):  # of the other version: False
        return True
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return not any(ip in network for network in _NOT_PUBLIC)
