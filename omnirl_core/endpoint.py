"""A model behind an OpenAI-compatible endpoint, asked for JSON: bounded in time, requests and tokens, answers kept.

Nothing raises for what the other side does: a question without an answer gives None and is counted by its cause. The
key is read from an environment variable when a request is sent, and stands nowhere else.
"""

import hashlib
import http.client
import json
import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from omnirl_core.types import JsonObject, Message

logger = logging.getLogger(__name__)
Read = TypeVar("Read")

MOST_BYTES = 4 << 20
"""Of a reply; more is no answer."""
IN_A_ROW = 8
"""Questions that fail in a row, after which the endpoint is left alone for REST_S."""
REST_S = 60.0
_wait = time.sleep
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}


class Failed(Exception):
    """A request without a usable reply: its cause, and the seconds that the server asks to wait."""

    def __init__(self, cause: str, again: bool = True, wait_s: float = 0.0) -> None:
        super().__init__(cause)
        self.cause, self.again, self.wait_s = cause, again, wait_s


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how much.

    Args:
        url: its root, as `http://localhost:8000/v1`; https elsewhere. Redirects and proxies are not followed.
        model: the name that the server knows.
        key_variable: environment variable with the key; none is sent where it is not set.
        timeout_s: most seconds of one request, and of one wait between two.
        retries: further requests after a failed one.
        most_requests, most_tokens: what this process may spend; None is without end.
        cache: folder of answers, shared by processes and runs; None keeps none.
    """

    url: str
    model: str
    key_variable: str = "OMNIRL_JUDGE_KEY"
    timeout_s: float = 30.0
    retries: int = 3
    most_requests: int | None = None
    most_tokens: int | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url: {self.url!r} is no http(s) address; write http://localhost:8000/v1")
        if "@" in parts.netloc or parts.query:
            raise ValueError("url: holds a user or a query; a key comes from the variable that key_variable names")


@dataclass
class Client:
    """One endpoint's budget, counts and rests, shared by the threads of a process."""

    endpoint: Endpoint
    counts: Counter[str] = field(default_factory=Counter)
    """Cause -> questions without an answer; `requests`, `tokens` and `cached` beside them."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _failed: int = 0
    _rests_until: float = 0.0

    def ask(self, key: object, messages: Callable[[], Sequence[Message]], read: Callable[[str], Read], **more: object
    ) -> Read | None:  # fmt: skip
        """What `read` makes of the model's reply; None where there is none.

        Args:
            key: what the answer depends on, for the cache; JSON.
            messages: makes the messages of a request, anew for each.
            read: reads a reply; ValueError for one that says nothing.
            more: further fields of the request.
        """
        file = self._file([key, more])
        if file is not None and (kept := _kept(file)) is not None:
            with self._lock:
                self.counts["cached"] += 1
            return read(kept)
        try:
            text = self._tried(messages, read, more)
        except Failed as failure:
            self._count(failure.cause)
            return None
        if file is not None:
            _keep(file, text)
        return read(text)

    def _file(self, key: object) -> Path | None:
        if self.endpoint.cache is None:
            return None
        text = json.dumps([self.endpoint.url, self.endpoint.model, key], sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()
        return Path(self.endpoint.cache, name[:2], f"{name}.json")

    def _tried(self, messages: Callable[[], Sequence[Message]], read: Callable[[str], Read], more: JsonObject) -> str:
        """The text of a reply that `read` reads; Failed after the last retry."""
        for n in range(self.endpoint.retries + 1):
            self._spend()
            try:
                text = self._requested({"model": self.endpoint.model, "messages": messages(), **more})
                read(text)
            except ValueError:
                failure = Failed("reply not readable")
            except Failed as error:
                failure = error
            else:
                with self._lock:
                    self._failed = 0
                return text
            if not failure.again or n == self.endpoint.retries:
                break
            wait_s = max(failure.wait_s, 0.25 * 2**n * (1 + random.random()))
            if wait_s > self.endpoint.timeout_s:
                break
            _wait(wait_s)
        raise failure

    def _spend(self) -> None:
        """Takes one request off the budget; Failed where none is left, or the endpoint is left alone."""
        limits = (("requests", self.endpoint.most_requests), ("tokens", self.endpoint.most_tokens))
        with self._lock:
            if time.monotonic() < self._rests_until:
                raise Failed("endpoint left alone after failures", again=False)
            for name, most in limits:
                if most is not None and self.counts[name] >= most:
                    raise Failed(f"budget of {name} spent", again=False)
            self.counts["requests"] += 1

    def _count(self, cause: str) -> None:
        with self._lock:
            self.counts[cause] += 1
            is_new = self.counts[cause] == 1
            if not cause.startswith(("budget", "endpoint left alone")):
                self._failed += 1
                if self._failed >= IN_A_ROW:
                    self._failed, self._rests_until = 0, time.monotonic() + REST_S
        if is_new:
            logger.warning("%s of %s: %s; such samples get no score", self.endpoint.model, self.endpoint.url, cause)

    def _requested(self, body: JsonObject) -> str:
        """The text of the reply; Failed with its cause."""
        key = os.environ.get(self.endpoint.key_variable, "")
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        try:
            status, wait, reply = self._sent(json.dumps(body).encode(), headers)
        except TimeoutError:
            raise Failed("no reply in time") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Failed(f"not reached ({type(error).__name__})") from None  # its text may hold a header
        if status != 200:
            raise Failed(f"HTTP status {status}", status in RETRIED, _seconds(wait))
        try:
            read = json.loads(reply)
            text = read["choices"][0]["message"]["content"]
            used = read.get("usage") or {}
            spent = used.get("total_tokens", 0)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            raise Failed("reply not readable") from None
        with self._lock:
            self.counts["tokens"] += spent if isinstance(spent, int) and spent > 0 else 0
        if not isinstance(text, str):
            raise Failed("reply not readable")
        return text

    def _sent(self, body: bytes, headers: dict[str, str]) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body; TimeoutError where it takes longer than `timeout_s` in all."""
        parts, end = urlsplit(self.endpoint.url), time.monotonic() + self.endpoint.timeout_s
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.endpoint.timeout_s)
        try:
            connection.request("POST", f"{parts.path.rstrip('/')}/chat/completions", body, headers)
            # a server that sends a byte now and then would never run into the socket's own timeout; the response may
            # hold the socket by then, and the connection no more
            guard = threading.Timer(max(0.0, end - time.monotonic()), _hang_up, [connection.sock])
            guard.daemon = True
            guard.start()
            try:
                response = connection.getresponse()
                reply = response.read(MOST_BYTES + 1)
            finally:
                guard.cancel()
                if time.monotonic() >= end:
                    raise TimeoutError
        finally:
            connection.close()
        if len(reply) > MOST_BYTES:
            raise ValueError
        return response.status, response.getheader("Retry-After"), reply


def _hang_up(connected: socket.socket) -> None:
    with suppress(OSError):  # closed by the other side
        connected.shutdown(socket.SHUT_RDWR)


def _seconds(retry_after: str | None) -> float:
    """Seconds that a Retry-After header asks to wait: a number or a date; 0.0 for neither."""
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(str(retry_after)) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _kept(file: Path) -> str | None:
    try:
        text = json.loads(file.read_text(encoding="utf-8"))["text"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _keep(file: Path, text: str) -> None:
    """Written beside and moved: processes may keep the same answer."""
    beside = file.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({"text": text}), encoding="utf-8")
        os.replace(beside, file)
    except OSError as error:
        logger.warning("the cache %s cannot be written: %s", file.parent.parent, error.strerror)


@lru_cache(maxsize=64)
def client_of(endpoint: Endpoint) -> Client:
    """The one client of an endpoint in this process."""
    return Client(endpoint)
