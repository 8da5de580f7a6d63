"""Pictures from the web, and from nowhere else: a caller must not reach this machine or its network through us.

Names are resolved by us, every address is checked, and the connection goes to the checked address itself, so that a
name cannot resolve to another one in between. Redirects are followed by hand and checked again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from .errors import ApiError, shown

MAX_REDIRECTS = 3
# RFC 6761 keeps "localhost" and all below it for this machine; systems call it by the others too.
_THIS_MACHINE = {"localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4", "localhost6"}
_THIS_MACHINE |= {"localhost6.localdomain6", "ip6-localhost", "ip6-loopback"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddress(OSError):
    """A name that leads to an address which is not of the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet. IPv4 inside IPv6 counts as what it carries."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        carried = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in _NAT64:
            carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if carried:
            return is_public(str(carried))
        if found.is_site_local:
            return False
    bad = (found.is_private, found.is_loopback, found.is_link_local, found.is_multicast, found.is_unspecified)
    return found.is_global and not any(bad) and not found.is_reserved


class CheckedResolver(AbstractResolver):
    """Resolves as the system does and gives public addresses alone; one bad address refuses the name.

    `trusted` names resolve to whatever they like.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        self.trusted = trusted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = [str(entry[4][0]) for entry in found]
        if host not in self.trusted and not all(is_public(address) for address in addresses):
            raise RefusedAddress(f"{host} leads to an address inside a network")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=entry[0],
                proto=entry[2],
                flags=socket.AI_NUMERICHOST,
            )
            for entry, address in zip(found, addresses, strict=True)
        ]

    async def close(self) -> None:
        """There is nothing to close."""


async def fetch(url: str, field: str, max_bytes: int, seconds: float, trusted: Sequence[str] = ()) -> bytes:
    """The content behind an http(s) URL.

    Raises:
        ApiError: 400 with the field's name: a bad URL, an address that is not public, more than `max_bytes`, more than
            `seconds` in all, too many redirects, or an answer that is no success.
    """
    try:
        return await asyncio.wait_for(_fetch(_checked(url, field, trusted), field, max_bytes, trusted), seconds)
    except asyncio.TimeoutError:
        raise ApiError(400, f"{field}: the picture did not arrive within {seconds:g} s.", field) from None
    except RefusedAddress:
        raise _refused(field) from None
    except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
        # aiohttp wraps the resolver's refusal; the cause decides which sentence is true.
        if isinstance(getattr(error, "os_error", None) or error.__cause__, RefusedAddress):
            raise _refused(field) from None
        raise ApiError(400, f"{field}: the picture cannot be fetched from this URL.", field) from None


async def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float, trusted: Sequence[str] = ()) -> int:
    """Send a body to an http(s) URL under the rules of `fetch`, without redirects; the status of the answer.

    Raises:
        ApiError: the URL is bad or its address is not public.
        OSError, aiohttp.ClientError, asyncio.TimeoutError: no answer came.
    """
    target = _checked(url, "webhook", trusted)
    connector = aiohttp.TCPConnector(resolver=CheckedResolver(trusted), use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(target, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(getattr(error, "os_error", None) or error.__cause__ or error, RefusedAddress):
            raise _refused("webhook") from None
        raise


def check_url(url: str, field: str, trusted: Sequence[str] = ()) -> None:
    """Raise ApiError 400 where a URL is bad as it stands; where its name leads is looked at when it is used."""
    _checked(url, field, trusted)


async def _fetch(url: URL, field: str, max_bytes: int, trusted: Sequence[str]) -> bytes:
    connector = aiohttp.TCPConnector(resolver=CheckedResolver(trusted), use_dns_cache=False)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "redux-control"}
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, headers=headers) as session:
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    url = _checked(str(url.join(URL(answer.headers.get("Location", "")))), field, trusted)
                    continue
                if answer.status != 200:
                    raise ApiError(400, f"{field}: its server answered with status {answer.status}.", field)
                return await _read(answer, field, max_bytes)
    raise ApiError(400, f"{field}: its server redirects more than {MAX_REDIRECTS} times.", field)


async def _read(answer: aiohttp.ClientResponse, field: str, max_bytes: int) -> bytes:
    content = bytearray()
    async for part in answer.content.iter_chunked(1 << 16):
        content += part
        if len(content) > max_bytes:
            raise ApiError(400, f"{field}: the picture has more than {max_bytes >> 20} MB.", field)
    return bytes(content)


def _checked(text: str, field: str, trusted: Sequence[str]) -> URL:
    """A URL whose scheme and, where it is written as a number, address are good. Names are checked on resolving."""
    try:
        url = URL(text)
    except ValueError:
        raise ApiError(400, f"{field} is no valid URL; https://HOST/PATH is needed.", field) from None
    if not url.scheme:
        raise ApiError(400, f"{field} is no URL; https://HOST/PATH is needed.", field)
    if url.scheme not in ("http", "https"):
        raise ApiError(400, f"{field}: only http and https URLs are fetched, not {shown(url.scheme)}.", field)
    if not url.host:
        raise ApiError(400, f"{field}: this URL names no host; {url.scheme}://HOST/PATH is needed.", field)
    if url.user or url.password:
        raise ApiError(400, f"{field}: a URL with a user name or password is not fetched.", field)
    if url.host not in trusted and _is_never_public(url.host):
        raise _refused(field)
    return url


def _is_never_public(host: str) -> bool:
    """Whether a host is known not to be of the public internet before any resolver is asked."""
    host = host.lower().rstrip(".")
    if host in _THIS_MACHINE or host.endswith(".localhost"):
        return True
    if ":" in host or host.replace(".", "").isdigit():  # aiohttp takes it for an address: 127.1, 2130706433
        return not is_public(host)
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(host)))  # the system does: 0x7f.1
    except (OSError, UnicodeError):
        return False


def _refused(field: str) -> ApiError:
    return ApiError(400, f"{field}: this URL leads to an address that is not of the public internet.", field)
