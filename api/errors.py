"""What a request can be refused for; each vendor's module gives it that vendor's shape."""

from __future__ import annotations


class ApiError(Exception):
    """A refusal: HTTP status, the input field at fault where there is one, and one sentence."""

    def __init__(self, status: int, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
