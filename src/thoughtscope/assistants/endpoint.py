"""`Endpoint`: a model behind any address that speaks OpenAI's chat completions, on this machine or elsewhere.

The key comes from an environment variable at the moment of sending. It is in no field, file, message or name of ours,
goes in the clear to no other machine, and follows no redirection.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import random
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from thoughtscope.assistants.estimate import Destination
from thoughtscope.assistants.requests import Answer, Request, Spoken
from thoughtscope.core.errors import NotAnswered, ThoughtscopeError
from thoughtscope.core.parsing import strict_json

ANSWER_BYTES = 16 * 2**20
LONGEST_WAIT = 60.0
"""Seconds between two tries, whatever the server asks for."""
_HOPELESS = (401, 403, 404, 405)
_AGAIN = (408, 409, 425, 429)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """`url` is the part before `/chat/completions`, such as `http://127.0.0.1:8080/v1`; `model` is the server's name.

    Answers that come with 429 or 5xx, or not at all, are asked for again, `tries` times in all, after 1, 2, 4, …
    `wait` seconds or what the server says. Raises `ThoughtscopeError` for an address that is none, or holds a secret.
    """

    url: str
    model: str
    key_from: str | None = None
    """The environment variable that holds the key; None where the server wants none."""
    at_once: int = 4
    timeout: float = 120.0
    tries: int = 5
    wait: float = 1.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the request's body, or others in place of ours; None leaves one out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _clean(self.url))
        if min(self.at_once, self.tries) < 1 or self.timeout <= 0 or self.wait < 0:
            raise ThoughtscopeError("at_once and tries are 1 or more, timeout is over 0, wait 0 or more.")
        if self.key_from is not None and not self.destination.is_here and self.url.startswith("http:"):
            raise ThoughtscopeError(
                f"{self.url} is not this machine, and http would send the key in the clear. Give an https address."
            )

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    @property
    def destination(self) -> Destination:
        host = urlsplit(self.url).hostname or ""
        return Destination(host=host, is_here=is_loopback(host))

    def identity(self) -> Mapping[str, Any]:
        return {"url": self.url, "model": self.model, "fields": dict(self.fields)}

    def tokens_of(self, request: Request) -> int | None:
        return None

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """At most `at_once` at a time; whoever takes no more leaves nothing waiting."""
        key, stopped = self._key(), threading.Event()
        with ThreadPoolExecutor(self.at_once) as pool:
            asked = {
                pool.submit(self._answer, request, key, stopped): number
                for number, request in enumerate(requests)
            }
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _key(self) -> str | None:
        if self.key_from is None:
            return None
        key = os.environ.get(self.key_from, "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ThoughtscopeError(
                f"The environment variable {self.key_from} holds no key. Set it to the key of {self.url}."
            )
        return key

    def _answer(self, request: Request, key: str | None, stopped: threading.Event) -> Answer:
        """An answer, or what went wrong the last time."""
        body = json.dumps(self._body(request)).encode()
        why = "it was stopped before it was sent."
        for number in range(self.tries):
            if stopped.is_set():
                break
            status, after, data = self._post(body, key)
            if key is not None:  # a server may say back what it was sent
                data = data.replace(key.encode(), b"[key]")
            if status == 200:
                return _read(data)
            why = f"{status or 'no answer'}: {_shown(data)}"
            if status in _HOPELESS:
                stopped.set()  # at once, before whoever is free takes the next
                raise NotAnswered(f"{self.name} does not answer: {why}")
            if status and status < 500 and status not in _AGAIN:
                break
            pause = min(LONGEST_WAIT, self.wait * 2**number * random.uniform(0.75, 1.0))
            if number < self.tries - 1 and stopped.wait(pause if after is None else min(LONGEST_WAIT, after)):
                break
        return Answer(error=why)

    def _body(self, request: Request) -> dict[str, Any]:
        said = [dict(message) for message in request.messages]
        body = {"model": self.model, "messages": said, "max_tokens": request.max_tokens}
        body |= {"temperature": request.temperature, "seed": request.seed, "stream": False}
        if request.logprobs:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        return {name: value for name, value in {**body, **self.fields}.items() if value is not None}

    def _post(self, body: bytes, key: str | None) -> tuple[int, float | None, bytes]:
        """The status (0 for no answer), how long the server asks to wait, and what it sent."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        call = urllib.request.Request(f"{self.url}/chat/completions", data=body, headers=headers)
        proxies = [urllib.request.ProxyHandler({})] if self.destination.is_here else []
        opener = urllib.request.build_opener(_NoRedirection, *proxies)
        try:
            with _opened(opener, call, self.timeout) as response:
                after = _seconds(response.headers.get("Retry-After"))
                return response.status, after, response.read(ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            return 0, None, str(reason or type(error).__name__).encode()


def _opened(opener: urllib.request.OpenerDirector, call: urllib.request.Request, timeout: float) -> Any:
    """The response, whatever its status."""
    try:
        return opener.open(call, timeout=timeout)
    except urllib.error.HTTPError as error:
        return error


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Another address than the one that was agreed to gets nothing, least of all the key."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _clean(url: str) -> str:
    """The address without a trailing slash or `/chat/completions`; `/v1` where it has no path."""
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ThoughtscopeError(
            "The assistant's address is no URL. Write http://127.0.0.1:8080/v1."
        ) from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ThoughtscopeError(
            "The assistant's address holds a name, a password or a query. Give the address alone, and the name of the "
            "environment variable that holds the key."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ThoughtscopeError(
            f'"{url}" is no address of an assistant. Write http://127.0.0.1:8080/v1 or https://HOST/v1.'
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path or '/v1'}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for sure: a loopback address, or `localhost` where that is one.

    No other name is looked up: who answers for it may change between the question and the sending.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if host != "localhost":
        return False
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(each).is_loopback for each in found)


def _read(data: bytes) -> Answer:
    """The answer in a body of the server's; a body that is none is a failure."""
    try:
        if len(data) > ANSWER_BYTES:
            raise ValueError(f"more than {ANSWER_BYTES:,} bytes")
        body = strict_json(data, "the answer", error=ThoughtscopeError)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        text, refusal = message.get("content") or "", message.get("refusal")
        if choice.get("finish_reason") == "content_filter" and refusal is None:
            refusal = "content_filter"
        if not isinstance(text, str) or not isinstance(refusal, str | None):
            raise ValueError("the message is no text")
        content = (choice.get("logprobs") or {}).get("content")
        return Answer(
            text=text,
            tokens_in=_count(usage.get("prompt_tokens")),
            tokens_out=_count(usage.get("completion_tokens")),
            logprobs=None if content is None else tuple(_spoken(each) for each in content),
            refusal=refusal,
            cut=choice.get("finish_reason") == "length",
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Answer(error=f"the server's answer is no chat completion: {error!r:.200}")


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _spoken(entry: Mapping[str, Any]) -> Spoken:
    """A token; a probability over 1 counts as 1."""
    top = tuple(
        (str(each["token"]), float(min(0.0, each["logprob"]))) for each in entry.get("top_logprobs") or ()
    )
    return Spoken(text=str(entry["token"]), logprob=float(min(0.0, entry["logprob"])), top=top)


def _seconds(text: str | None) -> float | None:
    """Retry-After in seconds; a date, which nobody needs here, counts as none."""
    return float(text) if text is not None and text.strip().isdecimal() else None


def _shown(data: bytes) -> str:
    return " ".join(data[:400].decode(errors="replace").split())
