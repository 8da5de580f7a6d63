"""What a request can be refused for; each vendor's module gives it that vendor's shape."""

from __future__ import annotations

from collections.abc import Mapping


class ApiError(Exception):
    """A refusal: HTTP status, the input field at fault where there is one, one sentence, and headers."""

    def __init__(self, status: int, message: str, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field, self.headers = status, message, field, dict(headers or {})


def shown(text: str, most: int = 60) -> str:
    """A caller's text, safe and short enough for an answer."""
    text = text.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[:most]}…"
