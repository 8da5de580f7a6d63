"""Who may come in: holders of a key, or, where no key is set, programs on this machine."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence

from .errors import ApiError

_FORWARDED = {"forwarded", "x-real-ip", "cf-connecting-ip", "true-client-ip", "via"}
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]{1,5})?")


def authorize(headers: Mapping[str, str], peer: str | None, keys: Sequence[str]) -> None:
    """Raise ApiError 401 or 403 unless this caller may come in.

    Args:
        headers: of the request.
        peer: address of the other end of the connection.
        keys: the keys that are set. Without any, only direct connections from this machine count, and only under
            a name of this machine and not from a page of another origin: a proxy's callers are strangers, and so are
            a web page whose name now leads here and one that a browser on this machine shows.
    """
    if keys:
        return _check_key(headers.get("Authorization", ""), keys)
    if not is_loopback(peer or "") or any(_is_forwarding(name.lower()) for name in headers):
        raise ApiError(403, "No key is set, so only this machine may ask; set REDUX_API_KEYS to let others in.")
    host = headers.get("Host", "")
    if not _names_this_machine(host):
        raise ApiError(403, "No key is set, so this server answers only as localhost or a loopback address.")
    if _is_foreign_page(headers, host):
        raise ApiError(403, "No key is set, so pages of other origins may not ask; set REDUX_API_KEYS.")
    return None


def name_caller(headers: Mapping[str, str], keys: Sequence[str]) -> str:
    """Whose a request is: a digest of its key, which is authorized already; empty where no keys are set."""
    given = headers.get("Authorization", "").partition(" ")[2].strip()
    return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:16] if keys else ""


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


def _is_forwarding(name: str) -> bool:
    return name in _FORWARDED or name.startswith("x-forwarded-")


def _names_this_machine(host: str) -> bool:
    match = _HOST.fullmatch(host)
    name = (match[1] or match[2]).lower() if match else ""
    return name == "localhost" or is_loopback(name)


def _is_foreign_page(headers: Mapping[str, str], host: str) -> bool:
    """Whether a browser says that a page of another origin asks. Programs that are no browsers say nothing."""
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")
