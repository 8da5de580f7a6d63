"""What became of the jobs of a pool, each compared with what one host alone makes of the same order."""

from __future__ import annotations

import http.client
import importlib
import io
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .simulated_host import picture_of
from .soak_callers import DONE


@dataclass
class Asked:
    """A job that was accepted."""

    id: str
    seed: int
    color: tuple[int, int, int]
    at: float


@dataclass
class Verdict:
    """What became of the jobs."""

    lost: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    equal: int = 0

    def problems(self) -> list[str]:
        kinds = {"lost": self.lost, "for ever unfinished": self.unfinished, "with another picture": self.wrong}
        kinds |= {"failed": self.failed, "answered twice": self.twice}
        return [f"{len(ids)} jobs {kind}: {', '.join(ids[:3])}" for kind, ids in kinds.items() if ids]

    def judge(self, asked: Asked, job: dict[str, Any]) -> None:
        """Args: `job` is what the gateway says of it now."""
        status = job.get("status")
        if status == "lost":
            self.lost.append(asked.id)
        elif status not in DONE:
            self.unfinished.append(asked.id)
        elif status != "completed":
            self.failed.append(f"{asked.id} ({job.get('error')})")
        elif len(job["outputs"]) != 1 or _fetch(job["outputs"][0]) != _expected(asked):
            self.wrong.append(asked.id)
        else:
            self.equal += 1


def _expected(asked: Asked) -> bytes:
    """What a host alone makes of it: the same prompt, by the same rule."""
    jobs, prompts, settings = (importlib.import_module(f"api.{name}") for name in ("jobs", "prompt", "settings"))
    order = jobs.Order("", 256, 256, 1, 1, 3.5, asked.seed, format="png", quality=95)
    return picture_of(prompts.build_prompt(order, settings.Models(), "", 0.8), png(asked.color))


def png(color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), color).save(buffer, "PNG")
    return buffer.getvalue()


def _fetch(link: str) -> bytes:
    place = urllib.parse.urlsplit(link)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=30)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", place.path)
        return connection.getresponse().read()
    return b""
