"""`make soak`: the hosted endpoints under bad luck and bad callers for some minutes, and what became of every job.

    make soak ARGS="--minutes 30"

Callers submit and cancel all the while, and one misfortune after the other comes: the server is killed, its disk is
full, its folders are read-only, bodies arrive slowly, bodies and pictures are bombs. At the end every accepted job must
have come to one end, with a picture or a reason, and memory and descriptors must not have grown.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .api_server import make_server
from .errors import ToolError
from .server import Server
from .small_disk import SmallDisk
from .soak_callers import Callers
from .soak_faults import ENDINGS, FAULTS, World

SETTINGS = {"max_body_mb": 4, "max_image_mb": 2, "max_megapixels": 16, "body_seconds": 5, "decode_seconds": 3}
SETTINGS |= {"max_queue": 20}
CALLERS = 3
DRAIN_SECONDS = 120.0
GROWN_MB, GROWN_FILES = 150.0, 10
LONG_LIFE = 180
"""Samples of a life that is judged by its growth: in its first minute a server still takes what it needs."""
QUIET_SHARE = 1 / 3
"""Of the time, at its end, that one server lives through without being ended."""


@dataclass
class Life:
    """One server from its start to its end; each sample is time, memory of it and its children in MB, descriptors."""

    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def grown(self) -> tuple[float, int]:
        """By how much a long life grew, MB and descriptors: the median of its last third less that of its second."""
        third = len(self.samples) // 3
        if 3 * third < LONG_LIFE:
            return 0.0, 0
        middle, last = self.samples[third : 2 * third], self.samples[2 * third :]
        memory = _median([one[1] for one in last]) - _median([one[1] for one in middle])
        return memory, round(_median([one[2] for one in last]) - _median([one[2] for one in middle]))


class Soak:
    """Args: `folder` is emptied by the caller; `seed` decides when `misfortunes` come.

    So many `quiet_jobs` at least are taken after the last misfortune, however slow the machine.
    """

    def __init__(
        self, folder: Path, minutes: float, seed: int = 1, misfortunes: Iterable[str] = FAULTS, quiet_jobs: int = 0
    ) -> None:
        self.misfortunes, self.quiet_jobs = list(misfortunes), quiet_jobs
        self.seconds, self.random = 60 * minutes, random.Random(seed)
        self.disk = SmallDisk(folder / "disk")
        base = folder / "comfyui"
        base.mkdir(parents=True)
        for name in ("input", "output", "user"):
            (self.disk.folder / name).mkdir()
            (base / name).symlink_to(self.disk.folder / name, target_is_directory=True)
        self.server: Server = make_server(base, **SETTINGS)
        self.lives: list[Life] = []
        self.faults: Counter[str] = Counter()

    def run(self) -> list[str]:
        """What is wrong at the end; nothing, if all is well."""
        try:
            self._start()
            self.callers = Callers(lambda: self.server.url, CALLERS)
            self.callers.start()
            try:
                self._suffer()
                self._calm()
            finally:
                self.callers.stop()
            problems = self.callers.settle(DRAIN_SECONDS) if self._alive() else ["The server is gone."]
            return problems + self._check_files() + self._check_growth()
        finally:
            self.server.stop()
            self.disk.close()

    def table(self) -> str:
        """What was done and what became of it, in Markdown."""
        rows = [("minutes", f"{self.seconds / 60:g}"), ("disk", self.disk.kind), ("servers", str(len(self.lives)))]
        rows += [(f"misfortune: {name}", str(count)) for name, count in sorted(self.faults.items())]
        rows += self.callers.rows()
        memory, files = max((life.grown() for life in self.lives), default=(0.0, 0))
        peak = max((one[1] for life in self.lives for one in life.samples), default=0.0)
        rows += [("memory: peak, MB", f"{peak:.0f}"), ("memory: grown within a life, at most, MB", f"{memory:.0f}")]
        rows += [("descriptors: grown within a life, at most", str(files))]
        return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])

    def _suffer(self) -> None:
        """One misfortune after the other in a random order; all of them come, however short the time."""
        end, order = time.monotonic() + self.seconds, list[str]()
        world = World(self.server, self.disk, self._start, self.sample)
        while (left := end - time.monotonic()) > 0 or len(self.faults) < len(self.misfortunes):
            if not order:
                order = self.random.sample(self.misfortunes, len(self.misfortunes))
            name = order.pop()
            if name in ENDINGS and self.faults[name] and left < QUIET_SHARE * self.seconds:
                continue
            FAULTS[name](world)
            self.faults[name] += 1
            pause = time.monotonic() + min(self.random.uniform(2, 12), self.seconds / 20)
            while time.monotonic() < pause:
                self.sample()

    def _calm(self) -> None:
        wanted, end = len(self.callers.accepted) + self.quiet_jobs, time.monotonic() + DRAIN_SECONDS
        while len(self.callers.accepted) < wanted and time.monotonic() < end:
            self.sample()

    def sample(self) -> None:
        """Wait a moment, and look at the server."""
        time.sleep(0.5)
        if self.server.process is None:
            return
        try:
            parent = psutil.Process(self.server.process.pid)
            family = [parent, *parent.children(recursive=True)]
            memory = sum(one.memory_info().rss for one in family) / (1 << 20)
            files = parent.num_fds() if hasattr(parent, "num_fds") else parent.num_handles()
        except psutil.Error:
            return
        self.lives[-1].samples.append((time.monotonic(), memory, files))

    def _start(self) -> None:
        self.server.start()
        self.lives.append(Life())

    def _alive(self) -> bool:
        return self.server.process is not None and self.server.process.poll() is None

    def _check_files(self) -> list[str]:
        """Pictures of jobs that did not complete, twice a picture, and references that nobody needs."""
        pictures = Counter(path.name[:32] for path in (self.disk.folder / "output").rglob("*") if path.is_file())
        problems = [f"{id} left {count} pictures" for id, count in pictures.items() if count > 1]
        problems += [f"{id} has no picture on the disk" for id in self.callers.completed if not pictures[id]]
        left = [path.name for path in (self.disk.folder / "input" / "redux-api").glob("*")]
        return problems + [f"{name} is left in the input folder" for name in left]

    def _check_growth(self) -> list[str]:
        grown = [life.grown() for life in self.lives]
        bad = [one for one in grown if one[0] > GROWN_MB or one[1] > GROWN_FILES]
        return [f"a server grew by {memory:.0f} MB and {files} descriptors" for memory, files in bad]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="of what comes when")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="redux-soak-"))
    try:
        soak = Soak(folder, args.minutes, args.seed)
        problems = soak.run()
        print(soak.table())
    except (ToolError, KeyboardInterrupt) as error:
        sys.exit(f"error: {error or 'interrupted'} (log: {folder / 'comfyui' / 'comfyui.log'})")
    if problems:
        print(*problems, sep="\n")
        sys.exit(f"error: {len(problems)} things are wrong; the folder is {folder}.")
    shutil.rmtree(folder, ignore_errors=True)
    print("All is well.")


if __name__ == "__main__":
    main()
