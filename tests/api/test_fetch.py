"""Pictures from URLs: addresses, redirects, rebinding, limits, against servers on this machine."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from caller import load

fetch, errors = load("fetch"), load("errors")

PRIVATE = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255
    192.0.0.1 192.0.2.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 fe80::1 fe80::1%eth0
    fc00::1 fd12:3456::1 fec0::1 ff02::1 2001:db8::1 2002:7f00:1:: 2002:a00:1:: 64:ff9b::7f00:1 64:ff9b::a00:1
    64:ff9b:1::1 2001:0:4136:e378:8000:63bf:80ff:fffe 100::1 127.1 2130706433 0x7f.1 localhost
"""
PUBLIC = """
    1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::
"""


def test_which_addresses_are_public() -> None:
    assert [address for address in PRIVATE.split() if fetch.is_public(address)] == []
    assert [address for address in PUBLIC.split() if not fetch.is_public(address)] == []


def get(url: str, max_bytes: int = 1000, seconds: float = 5, trusted: tuple[str, ...] = ("127.0.0.1",)) -> bytes:
    return asyncio.run(fetch.fetch(url, "image", max_bytes, seconds, trusted))


def with_server(handler: Callable[[web.Request], Awaitable[web.StreamResponse]], test: Callable[[int], Any]) -> Any:
    """Run a coroutine function with the port of a web server on 127.0.0.1."""

    async def run() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await test(site._server.sockets[0].getsockname()[1])  # type: ignore[union-attr]
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def fetched(handler: Any, path: str = "/", **more: Any) -> bytes:
    options = {"max_bytes": 1000, "seconds": 60, "trusted": ("127.0.0.1",), **more}
    return with_server(handler, lambda port: fetch.fetch(f"http://127.0.0.1:{port}{path}", "image", **options))


def refusal(handler: Any, path: str = "/", **more: Any) -> str:
    with pytest.raises(errors.ApiError) as refused:
        fetched(handler, path, **more)
    assert refused.value.status == 400 and refused.value.field == "image"
    return str(refused.value)


async def hello(request: web.Request) -> web.Response:
    return web.Response(body=b"hello")


def test_what_is_trusted_is_fetched_and_nothing_else() -> None:
    assert fetched(hello) == b"hello"
    assert "not of the public internet" in refusal(hello, trusted=())


NEVER_PUBLIC = """
    localhost LOCALHOST localhost. a.localhost a.b.localhost. localhost.localdomain localhost6 ip6-localhost
    ip6-loopback 127.0.0.1. 127.1 2130706433 0x7f.1 0x7f000001 0177.0.0.1 10.0.0.1 [::1] [::ffff:7f00:1]
"""


def test_what_is_refused_before_a_name_is_looked_up() -> None:
    for host in NEVER_PUBLIC.split():
        with pytest.raises(errors.ApiError, match="not of the public internet"):
            fetch.check_url(f"http://{host}:1/", "webhook")
    for host in (
        *PUBLIC.split()[:3],
        "[2606:4700:4700::1111]",
        "localhost.example",
        "mylocalhost",
        "nas",
        "0x8.0x8.8.8",
    ):
        fetch.check_url(f"https://{host}/", "webhook")
    fetch.check_url("http://localhost:1/", "webhook", ("localhost",))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://", "this URL names no host; https://HOST/PATH is needed."),
        ("http:///a.png", "this URL names no host; http://HOST/PATH is needed."),
        ("http://:80/", "is no valid URL; https://HOST/PATH is needed."),
        ("nonsense", "is no URL; https://HOST/PATH is needed."),
        ("ftp://example.com/", "only http and https URLs are fetched, not ftp."),
        (f"{'x' * 99}://a", f"not {'x' * 60}…."),
    ],
)
def test_urls_that_are_bad_as_they_stand(url: str, words: str) -> None:
    with pytest.raises(errors.ApiError) as refused:
        fetch.check_url(url, "webhook")
    assert str(refused.value).startswith("webhook") and str(refused.value).endswith(words)


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_other_names_of_this_machine(host: str) -> None:
    hits: list[str] = []

    async def count(request: web.Request) -> web.Response:
        hits.append(request.path)
        return web.Response()

    async def test(port: int) -> None:
        with pytest.raises(errors.ApiError, match="not of the public internet|cannot be fetched"):
            await fetch.fetch(f"http://{host}:{port}/", "image", 1000, 5, ())

    with_server(count, test)
    assert not hits


def test_redirects_are_checked_again_and_end() -> None:
    async def redirect(request: web.Request) -> web.Response:
        steps = int(request.path.strip("/") or 0)
        if not steps:
            return web.Response(body=b"there")
        raise web.HTTPFound(f"http://127.0.0.1:{request.url.port}/{steps - 1 or ''}")

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"].replace("PORT", str(request.url.port)))

    assert fetched(redirect, "/3") == b"there"
    assert "redirects more than 3 times" in refusal(redirect, "/4")
    for target in ("http://localhost:PORT/", "http://[::1]:PORT/", "//localhost:PORT/", "http://169.254.169.254/"):
        assert "not of the public internet" in refusal(elsewhere, f"/?to={target}")
    for target in ("file:///etc/passwd", "gopher://127.0.0.1/", "http://u:p@127.0.0.1/"):
        assert "fetched" in refusal(elsewhere, f"/?to={target}")


def test_a_name_cannot_change_its_address_between_check_and_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the first answer is good, every later one leads to this machine's own server."""
    answers: list[str] = []
    hits: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        hits.append(request.transport.get_extra_info("sockname")[0])  # type: ignore[union-attr]
        return web.Response(body=b"secret")

    async def rebinding(host: str, port: int, **_: Any) -> list[Any]:
        answers.append("127.0.0.2" if not answers else "127.0.0.1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[-1], port))]

    async def test(port: int) -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", rebinding)
        monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.2")
        with pytest.raises(errors.ApiError, match="cannot be fetched"):  # nobody listens at 127.0.0.2
            await fetch.fetch(f"http://rebind.example:{port}/", "image", 1000, 5, ())
        with pytest.raises(errors.ApiError, match="not of the public internet"):
            await fetch.fetch(f"http://rebind.example:{port}/", "image", 1000, 5, ())

    with_server(handler, test)
    assert answers == ["127.0.0.2", "127.0.0.1"] and not hits


def test_one_bad_address_among_good_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def mixed(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("93.184.216.34", "10.0.0.1")]

    async def test() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", mixed)
        with pytest.raises(fetch.RefusedAddress):
            await fetch.CheckedResolver().resolve("mixed.example", 80)

    asyncio.run(test())


def test_size_and_time_end_it() -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 4096)
            sent += 4096

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await asyncio.sleep(0.05)

    async def zipped(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"0" * 10_000_000), headers={"Content-Encoding": "gzip"})

    assert "more than 1 MB" in refusal(endless, max_bytes=1 << 20)
    assert sent < 20 << 20
    start = time.monotonic()
    assert "did not arrive within 0.3 s" in refusal(slow, seconds=0.3)
    assert time.monotonic() - start < 30  # the other end never ends
    assert len(fetched(zipped, max_bytes=100_000)) < 100_000  # never unpacked


def test_answers_that_are_no_success_and_servers_that_are_none() -> None:
    async def broken(request: web.Request) -> web.Response:
        return web.Response(status=404)

    assert "status 404" in refusal(broken)
    for url in (
        "http://127.0.0.1:1/",
        "http://name.invalid/",
        "http://127.0.0.1:99999/",
        f"http://{'a' * 300}.example/",
    ):
        with pytest.raises(errors.ApiError):
            get(url)
