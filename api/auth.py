"""Who may come in: holders of a key, or, where no key is set, programs on this machine."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from .errors import ApiError

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def authorize(headers: Mapping[str, str], peer: str | None, keys: Sequence[str]) -> None:
    """Raise ApiError 401 or 403 unless this caller may come in.

    Args:
        headers: of the request.
        peer: address of the other end of the connection.
        keys: the keys that are set. Without any, only direct connections from this machine count, and only under
            a name of this machine: a proxy's callers are strangers, and so is a web page whose name now leads here.
    """
    if keys:
        _check_key(headers.get("Authorization", ""), keys)
    elif not is_loopback(peer or "") or any(name in headers for name in _FORWARDED):
        raise ApiError(403, "No key is set, so only this machine may ask; set REDUX_API_KEYS to let others in.")
    elif not _names_this_machine(headers.get("Host", "")):
        raise ApiError(403, "No key is set, so this server answers only as localhost or a loopback address.")


def is_loopback(address: str) -> bool:
    """Whether an IP address is this machine's own, in IPv4, IPv6 or IPv4 inside IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


def _check_key(header: str, keys: Sequence[str]) -> None:
    scheme, _, given = header.partition(" ")
    # Every key is compared, so that the time says nothing about which one was close. Old Replicate clients say Token.
    matches = [hmac.compare_digest(given.strip().encode("utf-8", "replace"), key.encode()) for key in keys]
    if scheme.lower() not in ("bearer", "token") or not any(matches):
        raise ApiError(401, "The key is missing or wrong; send the header Authorization: Bearer KEY.")


def _names_this_machine(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower() == "localhost" or is_loopback(name)
