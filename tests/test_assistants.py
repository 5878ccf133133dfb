"""Assistants: what is shown before anything is sent, what a server may answer, and where a key never is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import CHATML, GEMMA, THINKING, chat_model
from tests.tiny_models import tiny_model
from thoughtscope.assistants import (
    Answer,
    Destination,
    Endpoint,
    Estimate,
    KeptAnswers,
    Local,
    Prices,
    Request,
    Spoken,
    ask,
    only_here,
    user_says,
)
from thoughtscope.assistants.asking import FAILURES, estimate_of
from thoughtscope.assistants.endpoint import is_loopback
from thoughtscope.core.errors import (
    CorruptArtefact,
    NotAgreed,
    NotAnswered,
    ThoughtscopeError,
    UnsupportedModel,
)
from thoughtscope.models import Sampling, generate, tokenize

SECRET = "sk-a-key-that-nobody-may-see"
VARIABLE = "TEST_ASSISTANT_KEY"
QUESTION = user_says("What is it?", max_tokens=7)
Reply = tuple[int, dict[str, str], bytes]


def completion(text: str | None, **more: Any) -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **more}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 3}}).encode()


def ok(text: str = "a cat", **more: Any) -> Reply:
    return 200, {}, completion(text, **more)


class Served:
    """A server on the loopback interface that answers as it is told, and remembers what came."""

    def __init__(self, reply: Callable[[int], Reply]) -> None:
        self.reply, self.bodies, self.headers, self.lock = reply, [], [], threading.Lock()
        self.paths: list[str] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        with self.lock:
            number = len(self.bodies)
            self.bodies.append(json.loads(body) if body else None)
            self.headers.append(dict(handler.headers))
            self.paths.append(f"{handler.command} {handler.path}")
        status, headers, data = self.reply(number)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def serving(reply: Callable[[int], Reply] | Reply) -> Iterator[Served]:
    served = Served(reply if callable(reply) else lambda _: reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            served.answer(self)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def endpoint(served: Served, **changes: Any) -> Endpoint:
    return Endpoint(url=served.url, model="tiny", **{"wait": 0.001, **changes})


class Elsewhere:
    """An assistant on another machine, as far as anybody can tell; it counts what reaches it."""

    name = "far away"
    destination = Destination(host="api.example.com", is_here=False)

    def __init__(self, reply: Callable[[Request], Answer] = lambda _: Answer(text="fine")) -> None:
        self.sent: list[Request] = []
        self.reply = reply

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def tokens_of(self, request: Request) -> int | None:
        return None

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for number in reversed(range(len(requests))):  # in another order than they were asked
            self.sent.append(requests[number])
            yield number, self.reply(requests[number])


def numbered(n: int) -> list[Request]:
    return [user_says(f"number {number}", max_tokens=5) for number in range(n)]


# --- before anything is sent ---------------------------------------------------------------------------------------


def test_nothing_is_sent_elsewhere_without_consent():
    far = Elsewhere()
    with pytest.raises(
        NotAgreed, match=r"Nothing was sent. 3 requests to far away \(api.example.com, not this machine"
    ):
        ask(far, numbered(3))
    assert far.sent == []


def test_consent_sees_what_is_sent_and_what_it_costs_before_it_is():
    far = Elsewhere()
    seen: list[Estimate] = []

    def consent(estimate: Estimate) -> bool:
        assert far.sent == []
        seen.append(estimate)
        return True

    requests = [user_says("x" * 400, max_tokens=50), user_says("y" * 402, max_tokens=30)]
    ask(far, requests, prices=Prices(tokens_in=2.0, tokens_out=10.0), consent=consent)
    (estimate,) = seen
    assert (estimate.requests, estimate.tokens_in, estimate.exact) == (2, 100 + 101, False)
    assert estimate.tokens_out == 80
    assert estimate.cost == pytest.approx((201 * 2 + 80 * 10) / 1e6)
    assert "about 201 (bytes / 4) tokens in" in str(estimate) and "0.0012 at the prices given" in str(
        estimate
    )
    assert len(far.sent) == 2


def test_answers_stand_where_their_requests_do_and_equal_ones_are_sent_once():
    far = Elsewhere(lambda request: Answer(text=request.messages[0]["content"]))
    requests = [*numbered(3), *numbered(2)]
    answers = ask(far, requests, consent=lambda _: True)
    assert [answer.text for answer in answers] == [request.messages[0]["content"] for request in requests]
    assert len(far.sent) == 3


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("localhost.example.com", False), ("127.0.0.1.example.com", False), ("example.com", False)],
)  # fmt: skip
def test_only_a_loopback_address_is_this_machine(host, here):
    assert is_loopback(host) == here
    url = f"https://[{host}]/v1" if ":" in host else f"https://{host}/v1"
    assert Endpoint(url=url, model="m").destination.is_here == here


def test_localhost_is_here_only_where_it_is_a_loopback_address(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: [(2, 1, 6, "", ("192.0.2.7", 0))])
    assert not is_loopback("localhost")
    assert not only_here(estimate_of(Endpoint(url="http://localhost/v1", model="m"), [QUESTION]))


@pytest.mark.parametrize(
    "prices", [{"tokens_in": -1.0, "tokens_out": 1.0}, {"tokens_in": 1.0, "tokens_out": float("nan")}]
)
def test_a_price_is_a_number(prices):
    with pytest.raises(ThoughtscopeError, match="price"):
        Prices(**prices)


# --- answers are kept ----------------------------------------------------------------------------------------------


def test_a_killed_run_pays_nothing_twice(tmp_path):
    """What came before the end is on disk; the second run asks for the rest, and says so."""

    class Killed(Exception): ...

    def dies(request: Request) -> Answer:
        if len(far.sent) == 4:
            raise Killed
        return Answer(text=request.messages[0]["content"])

    far = Elsewhere(dies)
    with pytest.raises(Killed):
        ask(far, numbered(6), folder=tmp_path, consent=lambda _: True)
    again, seen = Elsewhere(lambda request: Answer(text="new")), []
    answers = ask(again, numbered(6), folder=tmp_path, consent=lambda estimate: not seen.append(estimate))
    assert [answer.text for answer in answers] == ["new", "new", "new", "number 3", "number 4", "number 5"]
    assert (len(again.sent), seen[0].requests, seen[0].kept) == (3, 3, 3)
    third = Elsewhere()
    assert (
        ask(third, numbered(6), folder=tmp_path) == answers and third.sent == []
    )  # not even consent is asked


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 6},
        {"temperature": 0.5},
        {"seed": 1},
        {"logprobs": 2},
        {"opening": "A"},
        {"messages": ({"role": "user", "content": "else"},)},
    ],
)
def test_another_request_is_another_answer(tmp_path, change):
    kept, far = KeptAnswers(tmp_path), Elsewhere()
    kept.keep(far, QUESTION, Answer(text="it"))
    assert kept.get(far, QUESTION) == Answer(text="it")
    assert kept.get(far, replace(QUESTION, **change)) is None
    other = Endpoint(url="http://127.0.0.1:1", model="m")
    assert kept.get(other, QUESTION) is None and kept.get(replace(other, model="n"), QUESTION) is None


def test_a_damaged_answer_is_asked_for_again(tmp_path):
    far = Elsewhere()
    ask(far, [QUESTION], folder=tmp_path, consent=lambda _: True)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:-9])
    ask(far, [QUESTION], folder=tmp_path, consent=lambda _: True)
    assert len(far.sent) == 2


def test_what_failed_is_not_kept(tmp_path):
    far = Elsewhere(lambda _: Answer(error="no"))
    assert ask(far, [QUESTION], folder=tmp_path, consent=lambda _: True) == [Answer(error="no")]
    assert list(tmp_path.rglob("*.json")) == []


def test_many_failures_in_a_row_end_the_asking():
    far = Elsewhere(lambda _: Answer(error="the machine is on fire"))
    with pytest.raises(NotAnswered, match=r"8 times in a row.*on fire"):
        ask(far, numbered(20), consent=lambda _: True)
    assert len(far.sent) == FAILURES == 8


def test_answers_survive_a_round_trip():
    spoken = (Spoken(text="a", logprob=-0.5, top=(("a", -0.5), ("b", -1.5))),)
    for answer in (
        Answer(text="x", tokens_in=3, logprobs=spoken, cut=True),
        Answer(error="no"),
        Answer(refusal="no"),
    ):
        assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer
    for wrong in ({}, {"text": 3, "logprobs": None}, [], {"logprobs": [1]}):
        with pytest.raises(CorruptArtefact):
            Answer.from_json(wrong)


def test_a_leading_thought_is_not_what_was_said():
    assert Answer(text="<think>\nLabel: no\n</think>\nLabel: yes").said == "\nLabel: yes"
    assert Answer(text="Label: <think>yes</think>").said == "Label: <think>yes</think>"


# --- an endpoint ---------------------------------------------------------------------------------------------------


def test_an_endpoint_speaks_chat_completions():
    logprobs = {
        "content": [
            {
                "token": "a",
                "logprob": -0.1,
                "top_logprobs": [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -3}],
            }
        ]
    }
    with serving(ok(logprobs=logprobs, finish_reason="length")) as served:
        request = Request(
            messages=({"role": "user", "content": "é"},), max_tokens=9, temperature=0.5, seed=4, logprobs=2
        )
        (answer,) = ask(endpoint(served, fields={"max_tokens": None, "max_completion_tokens": 9}), [request])
    assert served.paths == ["POST /v1/chat/completions"]
    assert served.bodies == [
        {"model": "tiny", "messages": [{"role": "user", "content": "é"}], "max_completion_tokens": 9, "temperature": 0.5,
         "seed": 4, "stream": False, "logprobs": True, "top_logprobs": 2}
    ]  # fmt: skip
    spoken = (Spoken(text="a", logprob=-0.1, top=(("a", -0.1), ("b", -3.0))),)
    assert answer == Answer(text="a cat", tokens_in=11, tokens_out=3, logprobs=spoken, cut=True)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status):
    with serving(lambda n: (status, {"Retry-After": "0"}, b"busy") if n < 2 else ok()) as served:
        assert ask(endpoint(served, tries=3), [QUESTION])[0].text == "a cat"
        assert len(served.bodies) == 3


def test_a_server_that_stays_busy_is_a_failure_with_its_words():
    with serving((503, {}, b"overloaded")) as served:
        (answer,) = ask(endpoint(served, tries=3), [QUESTION])
    assert answer.error == "503: overloaded" and len(served.bodies) == 3


def test_a_request_that_the_server_refuses_fails_alone_and_at_once():
    with serving(lambda n: (400, {}, b"too long") if n == 0 else ok()) as served:
        answers = ask(endpoint(served, at_once=1), numbered(3))
    assert [answer.error for answer in answers] == ["400: too long", None, None] and len(served.bodies) == 3


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_request_can_mend_ends_it(status):
    with serving((status, {}, b"no")) as served:
        with pytest.raises(NotAnswered, match=f"does not answer: {status}"):
            ask(endpoint(served, at_once=1), numbered(20))
        assert len(served.bodies) <= 2


def test_nobody_there_is_a_failure():
    (answer,) = ask(Endpoint(url="http://127.0.0.1:9/v1", model="m", tries=2, wait=0.001), [QUESTION])
    assert answer.state == "failed" and "refused" in answer.error


def test_a_server_that_says_nothing_in_time_is_a_failure():
    hold = threading.Event()
    with serving(lambda _: (hold.wait(5), ok())[1]) as served:
        (answer,) = ask(endpoint(served, timeout=0.2, tries=1), [QUESTION])
        hold.set()
    assert answer.state == "failed" and "timed out" in answer.error


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}', b"[1]", b"null",
     completion("x", logprobs={"content": [{"token": "a"}]})],
)  # fmt: skip
def test_what_is_no_completion_is_a_failure(body):
    with serving((200, {}, body)) as served:
        (answer,) = ask(endpoint(served), [QUESTION])
    assert answer.state == "failed" and "no chat completion" in answer.error


@pytest.mark.parametrize(
    ("reply", "refusal"),
    [(ok(None, message={"role": "assistant", "content": None, "refusal": "I will not."}), "I will not."),
     (ok("", finish_reason="content_filter"), "content_filter")],
)  # fmt: skip
def test_a_refusal_is_counted_as_one(reply, refusal):
    with serving(reply) as served:
        (answer,) = ask(endpoint(served), [QUESTION])
    assert (answer.state, answer.refusal) == ("refused", refusal)


def test_at_most_so_many_are_asked_at_once():
    running, most, lock = [0], [0], threading.Lock()

    def reply(_: int) -> Reply:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.02)
        with lock:
            running[0] -= 1
        return ok()

    with serving(reply) as served:
        ask(endpoint(served, at_once=3), numbered(12))
    assert 1 < most[0] <= 3


@pytest.mark.parametrize(
    ("url", "clean"),
    [("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"), ("https://Host.example/v1/", "https://host.example/v1"),
     ("https://h.example/openai/v1/chat/completions", "https://h.example/openai/v1")],
)  # fmt: skip
def test_an_address_is_understood(url, clean):
    assert Endpoint(url=url, model="m").url == clean


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "file:///etc/passwd", "ftp://h/v1", "https://", "http://[::1", "https://h:port/v1",
            f"https://me:{SECRET}@h.example/v1", f"https://h.example/v1?api_key={SECRET}", f"https://h.example/v1#{SECRET}"],
)  # fmt: skip
def test_what_is_no_address_or_holds_a_secret_is_refused_without_saying_it(url):
    with pytest.raises(ThoughtscopeError) as error:
        Endpoint(url=url, model="m")
    assert SECRET not in str(error.value)


# --- the key -------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_is_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, SECRET)

    def reply(number: int) -> Reply:  # a server that says back what it was sent
        said = served.headers[number]["Authorization"]
        return (400, {}, said.encode()) if number == 0 else ok()

    with serving(reply) as served:
        assistant = endpoint(served, key_from=VARIABLE, at_once=1)
        answers = ask(assistant, numbered(2), folder=tmp_path)
        assert all(headers["Authorization"] == f"Bearer {SECRET}" for headers in served.headers)
    assert answers[0].error == "400: Bearer [key]"
    told = [
        repr(assistant),
        assistant.name,
        str(assistant.identity()),
        repr(answers),
        str(estimate_of(assistant, [QUESTION])),
    ]
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(SECRET not in text for text in [*told, *files])


def test_no_key_is_sent_where_none_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving(ok()) as served:
        ask(endpoint(served), [QUESTION])
    assert "Authorization" not in served.headers[0] and SECRET not in str(served.headers)


@pytest.mark.parametrize("value", ["", " ", f"{SECRET}\nX: y", f"{SECRET} x", f"{SECRET}é"])
def test_a_variable_without_a_key_is_named_and_its_content_is_not(monkeypatch, value):
    monkeypatch.setenv(VARIABLE, value)
    with serving(ok()) as served:
        with pytest.raises(ThoughtscopeError, match=f"variable {VARIABLE} holds no key") as error:
            ask(endpoint(served, key_from=VARIABLE), [QUESTION])
        assert SECRET not in str(error.value) and served.bodies == []


def test_a_key_goes_in_the_clear_to_no_other_machine():
    with pytest.raises(ThoughtscopeError, match="in the clear"):
        Endpoint(url="http://192.0.2.7/v1", model="m", key_from=VARIABLE)
    Endpoint(url="http://127.0.0.1/v1", model="m", key_from=VARIABLE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirection_is_not_followed(monkeypatch, status):
    monkeypatch.setenv(VARIABLE, SECRET)
    with (
        serving(ok()) as other,
        serving((status, {"Location": f"{other.url}/v1/chat/completions"}, b"")) as served,
    ):
        (answer,) = ask(endpoint(served, key_from=VARIABLE), [QUESTION])
        assert other.paths == [] and answer.state == "failed" and answer.error.startswith(str(status))


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch):
    with serving(ok("by the proxy")) as proxy, serving(ok("directly")) as served:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert ask(endpoint(served), [QUESTION])[0].text == "directly"


# --- a model of this process ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local() -> Local:
    return Local(model=chat_model(CHATML), batch_tokens=200)


def test_a_local_model_answers_as_it_would_alone(local):
    """Each answer is the greedy continuation of its own conversation, whatever else is in its batch."""
    words = ["Hi", "Hello there, you", "x", "What is it?", "é <b> 😀"]
    answers = ask(local, [user_says(text, max_tokens=6) for text in words])
    for text, answer in zip(words, answers, strict=True):
        prompt = tokenize(local.model, chat=text)
        whole = generate(local.model, prompt, max_new_tokens=6)
        assert answer.text == whole.turns[0][-1].text
        assert answer.tokens_in == prompt.ids.shape[1] == local.tokens_of(user_says(text, max_tokens=6))
        assert answer.state == "given" and answer.tokens_out <= 6


def test_a_local_model_draws_by_the_requests_seed(local):
    requests = [
        Request(messages=({"role": "user", "content": "Hi"},), max_tokens=6, temperature=1.0, seed=seed)
        for seed in range(4)
    ]
    prompt = tokenize(local.model, chat="Hi")
    for seed, answer in enumerate(ask(local, requests)):
        whole = generate(local.model, prompt, max_new_tokens=6, sampling=Sampling(temperature=1.0, seed=seed))
        assert answer.text == whole.turns[0][-1].text


def test_a_local_models_logprobs_are_those_of_its_tokens(local):
    from thoughtscope.models import forward

    (answer,) = ask(local, [user_says("Hi", max_tokens=4, logprobs=3)])
    prompt = tokenize(local.model, chat="Hi")
    whole = generate(local.model, prompt, max_new_tokens=4)
    logprobs = forward(local.model, whole)[0].log_softmax(-1)
    for number, spoken in enumerate(answer.logprobs):
        at = prompt.ids.shape[1] - 1 + number
        top = logprobs[at].topk(3).values.tolist()
        assert [value for _, value in spoken.top] == pytest.approx(top, abs=1e-5)
        assert spoken.logprob == pytest.approx(top[0], abs=1e-5)  # the likeliest was taken
        assert spoken.text == whole.pieces[0][at + 1]


def test_an_answer_goes_on_from_its_opening(local):
    """It is the model's own continuation of that, and the tokens with their alternatives still spell all of it."""
    (answer,) = ask(local, [user_says("Hi", max_tokens=5, logprobs=2, opening="Label: a")])
    prompt = tokenize(
        local.model, chat=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Label: a"}]
    )
    whole = generate(local.model, prompt, max_new_tokens=5)
    assert answer.text == whole.turns[0][-1].text and answer.text.startswith("Label: a")
    assert answer.tokens_in == prompt.ids.shape[1]
    assert answer.logprobs[0] == Spoken(text="Label: a", logprob=0.0, top=())
    assert [each.text for each in answer.logprobs[1:]] == list(whole.pieces[0][prompt.ids.shape[1] :])


def test_an_opening_is_for_who_can_be_made_to_begin_so():
    """A server is not sent a message that it would take for a whole one; a template that cannot be left open is not."""
    with serving(ok("Label: x")) as served:
        assert ask(endpoint(served), [user_says("Hi", max_tokens=5, opening="Label:")])[0].text == "Label: x"
    assert (
        served.bodies[0]["messages"] == [{"role": "user", "content": "Hi"}]
        and "opening" not in served.bodies[0]
    )
    closing = Local(model=chat_model(THINKING.replace("m['content'].split('</think>')[-1]", "'thought'")))
    one, two = (ask(closing, [user_says("Hi", max_tokens=5, opening=opening)]) for opening in ("", "Label:"))
    assert one == two and one[0].state == "given"


def test_a_local_estimate_is_exact_and_stays_here(local):
    estimate = estimate_of(local, [user_says("Hi", max_tokens=4)])
    assert estimate.exact and only_here(estimate)
    assert estimate.tokens_in == tokenize(local.model, chat="Hi").ids.shape[1]


def test_a_prompt_that_does_not_fit_fails_alone(local):
    answers = ask(local, [user_says("x" * 1000, max_tokens=4), user_says("Hi", max_tokens=4)])
    assert [answer.state for answer in answers] == ["failed", "given"] and "allows" in answers[0].error


def test_a_template_that_refuses_a_role_fails_alone():
    picky = Local(model=chat_model(GEMMA))
    asked = Request(
        messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}), max_tokens=3
    )
    assert [answer.state for answer in ask(picky, [asked, user_says("Hi", max_tokens=3)])] == [
        "failed",
        "given",
    ]


def test_a_model_without_a_template_cannot_be_asked():
    with pytest.raises(UnsupportedModel, match="chat template"):
        Local(model=tiny_model("llama"))


@pytest.mark.parametrize(
    "change", [{"max_tokens": 0}, {"temperature": -1.0}, {"logprobs": -1}, {"messages": ()}]
)
def test_a_request_without_sense_is_refused(change):
    with pytest.raises(ThoughtscopeError):
        replace(QUESTION, **change)


def test_keys_are_of_a_folder_not_of_a_place(tmp_path: Path):
    """A folder of answers can be moved."""
    far = Elsewhere()
    ask(far, [QUESTION], folder=tmp_path / "one", consent=lambda _: True)
    (tmp_path / "one").rename(tmp_path / "two")
    ask(far, [QUESTION], folder=tmp_path / "two")
    assert len(far.sent) == 1
