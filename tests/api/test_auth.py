"""Who may come in, and settings that are refused when they are not understood."""

from __future__ import annotations

from typing import Any

import pytest
from caller import load

auth, settings, errors = load("auth"), load("settings"), load("errors")


@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        ({"Host": "localhost:8188"}, "127.0.0.1", None),
        ({"Host": "127.0.0.1"}, "127.0.0.9", None),
        ({"Host": "[::1]:8188"}, "::1", None),
        ({"Host": "127.0.0.1:1"}, "::ffff:127.0.0.1", None),
        ({"Host": "localhost"}, "192.168.1.5", 403),
        ({"Host": "localhost"}, None, 403),
        ({"Host": "localhost"}, "::ffff:8.8.8.8", 403),
        ({"Host": "evil.example"}, "127.0.0.1", 403),  # DNS rebinding: a page whose name now leads here
        ({"Host": "127.0.0.1.evil.example"}, "127.0.0.1", 403),
        ({"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}, "127.0.0.1", 403),  # a proxy's caller
        ({}, "127.0.0.1", 403),
    ],
)
def test_without_keys_only_this_machine(headers: dict[str, str], peer: str | None, status: int | None) -> None:
    if status is None:
        auth.authorize(headers, peer, ())
    else:
        with pytest.raises(errors.ApiError) as refused:
            auth.authorize(headers, peer, ())
        assert refused.value.status == status


def test_with_keys_the_key_alone_counts() -> None:
    keys = ("alpha", "b\u00e9ta")
    for header in ("Bearer alpha", "bearer alpha", "Bearer b\u00e9ta", "Token alpha"):
        auth.authorize({"Authorization": header}, "8.8.8.8", keys)
    for header in (
        "",
        "alpha",
        "Bearer",
        "Bearer ",
        "Bearer alph",
        "Bearer alphaa",
        "Bearer alpha,b\u00e9ta",
        "Basic alpha",
    ):
        with pytest.raises(errors.ApiError) as refused:
            auth.authorize({"Authorization": header, "Host": "localhost"}, "127.0.0.1", keys)
        assert refused.value.status == 401


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(b) or real(a, b))
    auth.authorize({"Authorization": "Bearer one"}, None, ("one", "two", "three"))
    assert compared == [b"one", b"two", b"three"]


def test_settings_are_checked(tmp_path: Any) -> None:
    path = tmp_path / "redux-api.json"
    assert not settings.load_settings(path, {}).enabled
    path.write_text('{"enabled": true, "keep_hours": 2, "models": {"vae": "ae.safetensors"}, "trusted_hosts": ["a"]}')
    environ = {"REDUX_API_KEYS": " a, ,b ", "REDUX_API_URL": "https://x/"}
    read = settings.load_settings(path, environ)
    assert read.enabled and read.keep_hours == 2.0 and read.models.vae == "ae.safetensors"
    assert read.models.words == "redux-mini-words.safetensors"
    assert (read.keys, read.public_url, read.trusted_hosts) == (("a", "b"), "https://x", ("a",))
    assert not settings.load_settings(path, {"REDUX_API": "0"}).enabled
    assert settings.load_settings(tmp_path / "none", {"REDUX_API": "1"}).enabled
    wrong = (
        "{",
        "[]",
        '{"enabeld": true}',
        '{"enabled": 1}',
        '{"models": 5}',
        '{"models": {"vea": "x"}}',
        '{"keys": []}',
    )
    for text in (*wrong, '{"keep_hours": "2"}', '{"trusted_hosts": [1]}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="redux-api.json"):
            settings.load_settings(path, {})
