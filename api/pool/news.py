"""Word of jobs that have moved, from whoever has moved them to all gateways, so that nobody has to look all the time.

It goes through an exchange of the broker which hands a copy to each gateway that listens. A message is a job's id, as
JSON, and nothing else. All of it is a hint: the job store is the truth, is written before the word goes out, and is
looked at without any word too, so a message that is lost, or a stranger's, costs a moment and nothing else.
"""

from __future__ import annotations

import logging
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu import Connection, Consumer, Exchange, Producer, Queue

from .app import BROKER_ERRORS

MOVED = Exchange("redux.moved", type="fanout", durable=True)
HEARTBEAT_SECONDS = 4
"""A connection that is half open is given up after two of these."""
TEND_SECONDS = 1.0
RETRY_SECONDS = 1.0
MOST = 10_000
"""Words that wait, on either side; what is beyond is lost."""
_ID = re.compile("[0-9a-f]{32}")

log = logging.getLogger(__name__)


class Teller:
    """Sends the word from a thread of its own, so that nobody waits for the broker; made after a fork, not before."""

    def __init__(self, app: Celery) -> None:
        self.app, self.words = app, queue.Queue[str](MOST)
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()

    def tell(self, id: str) -> None:
        """A job has moved. The thread begins with the first."""
        with suppress(queue.Full):
            self.words.put_nowait(id)
        if self.thread is None:
            with self.lock:
                if self.thread is None:
                    self.thread = threading.Thread(target=self._run, daemon=True, name="teller")
                    self.thread.start()

    def _run(self) -> None:
        while True:
            with suppress(*BROKER_ERRORS), _connect(self.app) as connection:
                self._send(connection)
            time.sleep(RETRY_SECONDS)
            with suppress(queue.Empty):  # by now the gateways have looked by themselves
                while True:
                    self.words.get_nowait()

    def _send(self, connection: Connection) -> None:
        producer, due = Producer(connection, exchange=MOVED, serializer="json"), 0.0
        while True:
            with suppress(queue.Empty):
                producer.publish(self.words.get(timeout=TEND_SECONDS), delivery_mode=1)
            if time.monotonic() >= due:
                _tend(connection, 0.0)
                due = time.monotonic() + TEND_SECONDS


class Listener:
    """Hears the word in a thread.

    Args:
        hear: is called in that thread, with the id of each job that has moved, and with "" when listening begins:
            what has moved before that nobody has heard.

    Attributes:
        listens: whether a word would be heard, as far as is known.
    """

    def __init__(self, app: Celery, hear: Callable[[str], None]) -> None:
        self.app, self.hear, self.listens = app, hear, False
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name="listener")

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.over.set()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                with _connect(self.app) as connection:
                    self._listen(connection)
            except BROKER_ERRORS as error:
                if self.listens and not self.over.is_set():
                    log.warning("Redux gateway: the broker tells nothing now (%s).", type(error).__name__)
            finally:
                self.listens = False
            self.over.wait(RETRY_SECONDS)

    def _listen(self, connection: Connection) -> None:
        own = Queue("", MOVED, durable=False, exclusive=True, auto_delete=True, max_length=MOST)
        odd = {"accept": ["json"], "on_decode_error": lambda *_: None}
        with Consumer(connection, [own], no_ack=True, callbacks=[self._take], **odd):
            self.listens = True
            self.hear("")
            while not self.over.is_set():
                _tend(connection, TEND_SECONDS)

    def _take(self, body: Any, _: Any) -> None:
        if isinstance(body, str) and _ID.fullmatch(body):
            self.hear(body)


def _connect(app: Celery) -> Connection:
    """With the broker's settings, TLS among them; nobody waits until a word is on a disk."""
    return app.connection_for_write(heartbeat=HEARTBEAT_SECONDS, transport_options={"confirm_publish": False})


def _tend(connection: Connection, seconds: float) -> None:
    """Take what comes within some seconds, and beat; raises one of BROKER_ERRORS where the other end does not."""
    with suppress(socket.timeout):
        connection.drain_events(timeout=seconds or 0.001)
    connection.heartbeat_check()
