"""The gate in front of every route: Host, Origin, token, size, paths, headers. No model is needed for any of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.clients import BEARER, TOKEN, client_of
from thoughtscope.core.errors import PathOutsideRoot
from thoughtscope.core.files import default_folder
from thoughtscope.microscope import WorkFolder, slug_of
from thoughtscope.server.access import Access, UnsafeToken, is_loopback, read_token
from thoughtscope.server.app import create_app
from thoughtscope.server.errors import ANSWER_HEADERS
from thoughtscope.server.limits import Limits
from thoughtscope.server.session import Session

HOST = "http://127.0.0.1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def session(root: Path) -> Iterator[Session]:
    session = Session(None, folder=WorkFolder(root / "work"))
    yield session
    session.close()


@pytest.fixture(scope="module")
def page(root: Path) -> Path:
    folder = root / "ui"
    (folder / "vendor").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>page</title>")
    (folder / "vendor" / "lib.mjs").write_text("export const a = 1;")
    (folder / "notes.md").write_text("not served")
    (root / "secret.json").write_text('"leaked"')
    (folder / "link.json").symlink_to(root / "secret.json")
    return folder


@pytest.fixture(scope="module")
def client(session: Session, page: Path) -> TestClient:
    return client_of(session, page=page, base_url=HOST)


def error_code(answer) -> str:
    body = answer.json()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}, body
    assert body["error"]["message"].strip()
    return body["error"]["code"]


ROUTES = [
    ("GET", "/health"),
    ("GET", "/"),
    ("GET", "/chat"),
    ("GET", "/atlas"),
    ("GET", "/vendor/lib.mjs"),
    ("GET", "/nothing.js"),
    ("GET", "/api/session"),
    ("GET", "/api/graphs/a"),
    ("POST", "/api/graphs"),
    ("PUT", "/api/graphs/a/pins"),
    ("PUT", "/api/graphs/a/supernodes"),
    ("POST", "/api/trace"),
    ("POST", "/api/intervene"),
    ("POST", "/api/generate"),
    ("GET", "/api/features/0/0"),
    ("GET", "/api/search"),
    ("POST", "/api/like"),
    ("GET", "/api/atlas/a"),
    ("POST", "/api/effects"),
    ("POST", "/api/readings"),
    ("POST", "/api/activations"),
    ("PUT", "/api/labels/0/0"),
    ("GET", "/api/reports/a"),
    ("GET", "/data/graph-metadata.json"),
    ("GET", "/graph_data/a.json"),
    ("POST", "/save_graph/a"),
    ("GET", "/features/scan/0.json"),
    ("GET", "/openapi.json"),
    ("DELETE", "/api/graphs/a"),
    ("PATCH", "/api/graphs/a"),
    ("POST", "/api/graphs/a/restore"),
    ("POST", "/api/graphs/a/score"),
    ("PUT", "/api/graphs/a/layout"),
    ("DELETE", "/api/graphs/a/outcomes/0"),
]
LOGIN = ("POST", "/login")


def test_the_list_of_routes_is_complete(session: Session) -> None:
    def plain(path: str) -> str:
        for name, value in (
            ("{slug}", "a"),
            ("{part}", "0"),
            ("{index}", "0"),
            ("{number}", "0"),
            ("{scan}", "scan"),
            ("{name}", "a"),
        ):
            path = path.replace(name, value)
        return path

    described = create_app(session).openapi()["paths"]
    methods = {(method.upper(), plain(path)) for path, answers in described.items() for method in answers}
    assert methods <= {*ROUTES, LOGIN}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_answer_carries_the_headers(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path)
    for name, value in ANSWER_HEADERS.items():
        assert answer.headers[name] == value
    assert "access-control-allow-origin" not in answer.headers
    assert "unsafe-inline" not in answer.headers["content-security-policy"].split("style-src")[0]


@pytest.mark.parametrize(
    "host",
    ["evil.test", "evil.test:80", "127.0.0.1.evil.test", "127.0.0.1@evil.test", "", "[::1", "a b", "1.2.3.4"],
)
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_foreign_host_is_refused_on_every_route(
    client: TestClient, method: str, path: str, host: str
) -> None:
    answer = client.request(method, path, headers={"Host": host})
    assert answer.status_code == 403
    assert error_code(answer) == "unknown_host"
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8321", "127.0.0.1:1", "[::1]:8321"])
def test_this_machine_is_known_by_its_loopback_names(client: TestClient, host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


WRITES = [(method, path) for method, path in ROUTES if method != "GET"]


@pytest.mark.parametrize(("method", "path"), WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_foreign_page_cannot_write(
    client: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=headers)
    assert (answer.status_code, error_code(answer)) == (403, "foreign_origin")


def test_the_own_page_can_write(client: TestClient) -> None:
    answer = client.post(
        "/api/graphs", content=b"{}", headers={"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
    )
    assert error_code(answer) == "invalid_graph"


# --- the token -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["short", "", "x" * 600, "with some spaces in it", "ümlaut-in-the-token"])
def test_a_token_is_a_secret_that_a_header_can_carry(token: str) -> None:
    with pytest.raises(UnsafeToken, match="16 to 512 ASCII characters"):
        Access(token=token)


def test_every_launch_has_a_token_of_its_own_that_is_not_shown() -> None:
    one, other = Access(), Access(host="0.0.0.0")
    assert one.token != other.token and len(one.token) == 32
    assert one.token not in repr(one)


def test_a_token_file_is_read_only_if_it_is_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"  {TOKEN}\n")
    for mode in (0o644, 0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(UnsafeToken, match="chmod 600"):
            read_token(path)
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    path.write_bytes(b"x" * 5000)
    with pytest.raises(UnsafeToken, match="larger"):
        read_token(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for odd in ("fifo", ".", "missing", "loop", "token/x"):
        with pytest.raises(UnsafeToken):
            read_token(tmp_path / odd)


def test_loopback_is_recognised() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.9.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "localhost.evil.test", "10.0.0.1", "")))


@pytest.fixture(scope="module")
def reachable(session: Session, page: Path) -> FastAPI:
    access = Access(host="0.0.0.0", token=TOKEN, allowed_hosts=frozenset({"lab.test"}))
    return create_app(session, access, page=page)


@pytest.fixture
def open_client(reachable: FastAPI) -> TestClient:
    """A browser without the token."""
    return TestClient(reachable, base_url="http://10.0.0.1", raise_server_exceptions=False)


WITHOUT = {
    "nothing": {},
    "a wrong token": {"Authorization": "Bearer wrong"},
    "no scheme": {"Authorization": TOKEN},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "an empty bearer": {"Authorization": "Bearer "},
    "half of it": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "a cookie with the token itself": {"Cookie": f"thoughtscope-80={TOKEN}"},
    "another port's cookie": {"Cookie": f"thoughtscope-81={Access(token=TOKEN).cookie}"},
    "odd cookies": {"Cookie": 'a[b]=1; =; ;; thoughtscope-80; thoughtscope-80=; é=\xff; "=; x=' + "y" * 4000},
}
PUBLIC = [("GET", "/health"), ("GET", "/"), ("GET", "/vendor/lib.mjs")]


@pytest.mark.parametrize("headers", WITHOUT.values(), ids=WITHOUT.keys())
@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route not in PUBLIC])
def test_every_route_asks_for_the_token(
    open_client: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = open_client.request(method, path, headers=sent, content=b"x" if method != "GET" else None)
    assert (answer.status_code, error_code(answer)) == (401, "token_needed")
    assert answer.headers["www-authenticate"] == "Bearer"
    with_token = open_client.request(
        method, path, headers={**sent, **{n: v.encode() for n, v in BEARER.items()}}
    )
    assert with_token.status_code != 401


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", [path for _, path in PUBLIC])
def test_the_page_and_the_health_are_open(open_client: TestClient, method: str, path: str) -> None:
    answer = open_client.request(method, path)
    assert answer.status_code == 200 and int(answer.headers["content-length"]) > 0
    assert (answer.content == b"") == (method == "HEAD")
    assert open_client.request("OPTIONS", path).status_code == 401


def test_the_link_with_the_token_becomes_a_cookie_that_scripts_cannot_read(open_client: TestClient) -> None:
    answer = open_client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("thoughtscope-80=") and cookie.endswith("; httponly; path=/; samesite=strict")
    assert TOKEN not in cookie and TOKEN not in answer.text
    assert open_client.get("/api/session").status_code == 200


def test_a_link_with_a_wrong_token_loses_it_and_gives_nothing(open_client: TestClient) -> None:
    answer = open_client.get("/", params={"token": "wrong"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "/",
    ) and "set-cookie" not in answer.headers
    assert open_client.get("/?token=%ff%00" + "x" * 5000, follow_redirects=False).status_code == 303
    assert open_client.get("/api/session").status_code == 401


def test_the_login_gives_the_cookie_for_the_token_only(open_client: TestClient) -> None:
    began = time.perf_counter()
    answer = open_client.post("/login", json={"token": "wrong"})
    assert (answer.status_code, error_code(answer)) == (
        401,
        "wrong_token",
    ) and "set-cookie" not in answer.headers
    assert time.perf_counter() - began > 0.3, "guessing takes its time"
    for odd in (
        b"",
        b"{}",
        b'{"token": 7}',
        b'{"token": "\\ud800"}',
        b"[]",
        b'{"token": "' + b"x" * 9999 + b'"}',
    ):
        answer = open_client.post("/login", content=odd, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, odd
    foreign = open_client.post("/login", json={"token": TOKEN}, headers={"Origin": "https://evil.test"})
    assert foreign.status_code == 403
    assert open_client.get("/api/session").status_code == 401
    assert open_client.post("/login", json={"token": TOKEN}).json() == {"ok": True}
    assert open_client.get("/api/session").status_code == 200


@pytest.mark.parametrize(
    "beside",
    [
        "a[b]=1",
        "thoughtscope-80=stale",
        "thoughtscope-8321=other",
        'x="',
        "=",
        "é",
        "a=b=c",
        "x=;y",
        "thoughtscope_token=old",
    ],
)
def test_odd_and_stale_cookies_lock_nobody_out(reachable: FastAPI, beside: str) -> None:
    ours = f"thoughtscope-80={Access(token=TOKEN).cookie}"
    client = TestClient(reachable, base_url="http://10.0.0.1")
    for header in (f"{beside}; {ours}", f"{ours}; {beside}", f"{beside};{ours};{beside}"):
        assert client.get("/api/session", headers={"Cookie": header.encode()}).status_code == 200, header
    both = [("Cookie", beside.encode()), ("Cookie", ours)]
    assert client.get("/api/session", headers=both).status_code == 200


def test_two_servers_share_a_browser(session: Session, page: Path) -> None:
    """A cookie goes to every port of a host, so each server's has a name of its own."""
    servers = {port: create_app(session, Access(), page=page) for port in (8321, 8322)}
    tokens = {port: app.user_middleware[0].kwargs["access"].token for port, app in servers.items()}
    jar: dict[str, str] = {}
    for port in servers:
        client = TestClient(servers[port], base_url=f"http://127.0.0.1:{port}", cookies=jar)
        answer = client.get("/", params={"token": tokens[port]}, follow_redirects=False)
        jar.update(answer.cookies)
    assert sorted(jar) == ["thoughtscope-8321", "thoughtscope-8322"]
    for port, app in servers.items():
        client = TestClient(app, base_url=f"http://127.0.0.1:{port}", cookies=jar)
        assert client.get("/api/session").status_code == 200
        swapped = {
            "thoughtscope-8321": jar["thoughtscope-8322"],
            "thoughtscope-8322": jar["thoughtscope-8321"],
        }
        assert (
            TestClient(app, base_url=f"http://127.0.0.1:{port}", cookies=swapped)
            .get("/api/session")
            .status_code
            == 401
        )


def test_an_open_server_takes_addresses_and_named_hosts_only(open_client: TestClient) -> None:
    for host, status in (("10.0.0.1", 200), ("lab.test:80", 200), ("evil.test", 403)):
        assert open_client.get("/health", headers={"Host": host}).status_code == status


# --- size ------------------------------------------------------------------------------------------------------------


def test_a_body_over_the_limit_is_refused_at_once(client: TestClient) -> None:
    started = time.perf_counter()
    for headers in ({"Content-Length": "9" * 12}, {"Content-Length": "-1"}, {"Content-Length": "x"}):
        answer = client.post("/api/trace", content=b"", headers=headers)
        assert (answer.status_code, error_code(answer)) == (413, "limit_exceeded")
    assert time.perf_counter() - started < 0.5


def test_a_body_without_a_length_is_cut_off_at_the_limit(session: Session, page: Path) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1000

    access = Access(token=TOKEN, limits=Limits(max_graph=10_000))
    client = TestClient(create_app(session, access, page=page), base_url=HOST, headers=BEARER)
    answer = client.post("/api/graphs", content=endless())
    assert (answer.status_code, error_code(answer)) == (413, "limit_exceeded")
    assert client.get("/health").status_code == 200


BODIES = {
    "/api/graphs": ["metadata", "nodes", "links", "qParams"],
    "/api/graphs/a/pins": ["pins"],
    "/api/graphs/a/supernodes": ["supernodes"],
    "/api/graphs/a/score": ["nodes"],
    "/api/graphs/a/layout": ["layout"],
    "/api/graphs/a": ["title"],
    "/api/trace": ["prompt", "node_mass", "max_nodes", "bos"],
    "/api/intervene": ["slug", "edits"],
    "/api/labels/0/0": ["label"],
    "/save_graph/a": ["qParams"],
    "/login": ["token"],
}
ODD = [
    r'"\ud800"', r'["\udfff x"]', r'[["\ud800", "\ud800"]]', r'{"\ud800": [0, 1e999]}', "1e999", "-1e999", "[1e999]", "NaN",
    "[[NaN]]", r'"\u0000"', "[" * 3000, "[" * 3000 + "]" * 3000, "1" * 5000, "-0", "1e-999", "null", "{}", "[{}]", r'"\u202e"',
    '{"a": 1, "a": 2}', '"' + "x" * 5000 + '"', '"\x7f\x00"', "[[[]]]", r'{"pinnedIds": "\ud800"}', r'{"supernodes": "[[1e999"}',
]  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
def test_no_body_makes_the_server_fail(
    session: Session, page: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thoughtscope.server.login.DELAY", 0)
    session.folder.write_graph("a", {"metadata": {"prompt": "p"}, "nodes": [], "links": []})
    client = client_of(session, page=page)
    (method,) = {method for method, known in [*ROUTES, LOGIN] if known == path} - {"GET", "DELETE"}
    whole = [value.encode() for value in ODD] + [b"", b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16")]
    parts = [f'{{"{field}": {value}}}'.encode() for field in BODIES[path] for value in ODD]
    for body in [*whole, *parts]:
        answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (body[:80], answer.text)
        assert answer.status_code < 400 or error_code(answer)


# --- paths -----------------------------------------------------------------------------------------------------------

OUTSIDE = [
    "../secret.json", "..%2fsecret.json", "%2e%2e/secret.json", "%2e%2e%2fsecret.json", "..%252fsecret.json", "....//secret.json",
    "..\\secret.json", "..%5csecret.json", "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "vendor/../../secret.json",
    "vendor/%2e%2e/%2e%2e/secret.json", "secret.json%00.js", "%00", "link.json", "~/secret.json", "file:///etc/passwd", "C:%5csecret.json",
    "..;/secret.json", "%c0%ae%c0%ae/secret.json", "%uff0e%uff0e/secret.json", ".", "..", "vendor", "vendor/", "notes.md",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize(
    "prefix",
    ["/", "/api/graphs/", "/api/reports/", "/graph_data/", "/api/features/", "/features/x/", "/features/"],
)
def test_no_path_leads_outside(client: TestClient, prefix: str, path: str) -> None:
    answer = client.get(prefix + path)
    assert "leaked" not in answer.text
    assert "root:" not in answer.text
    if answer.status_code == 200:  # the client itself folds "." and ".." away, which may leave the page
        assert answer.text == "<!doctype html><title>page</title>"
    else:
        assert answer.status_code in (403, 404, 405, 409, 422)
        error_code(answer)
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "slug",
    ["", ".", "..", "../a", "a/b", "a\\b", "/etc/passwd", "a\0", "é", "a" * 101, ".hidden", "a b", "a\n"],
)
def test_a_slug_is_a_plain_name(tmp_path: Path, slug: str) -> None:
    folder = WorkFolder(tmp_path)
    with pytest.raises(PathOutsideRoot):
        folder.graph_path(slug)
    with pytest.raises(PathOutsideRoot):
        folder.write_graph(slug, {})


def test_a_link_out_of_the_work_folder_is_not_followed(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path / "work")
    (tmp_path / "outside.json").write_text("{}")
    (folder.root / "graphs" / "link.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(PathOutsideRoot):
        folder.read_graph("link")
    assert folder.summaries() == []


def test_what_the_page_is_made_of_is_served_with_its_type(client: TestClient) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    assert client.get("/vendor/lib.mjs").headers["content-type"].startswith("text/javascript")
    assert client.get("/notes.md").status_code == 404


def test_the_description_is_there_and_the_foreign_docs_page_is_not(client: TestClient) -> None:
    assert "/api/trace" in client.get("/openapi.json").json()["paths"]
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


# --- the work folder -------------------------------------------------------------------------------------------------


def test_labels_survive_and_an_empty_one_is_forgotten(tmp_path: Path) -> None:
    WorkFolder(tmp_path).labels.set("org/clt/1/2", "Texas")
    WorkFolder(tmp_path).labels.set("other/1/2", "elsewhere")
    WorkFolder(tmp_path).labels.set("org/clt/3/4", "gone")
    WorkFolder(tmp_path).labels.set("org/clt/3/4", "")
    assert WorkFolder(tmp_path).labels_of("org/clt", "scan") == {"1/2": "Texas"}
    assert WorkFolder(tmp_path).labels_of("other", "other") == {"1/2": "elsewhere"}
    assert WorkFolder(tmp_path).labels_of("org", "org") == {}


def test_labels_of_older_versions_move_into_the_one_store(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    old = tmp_path / "labels" / f"a-scan-{hashlib.sha256(b'a/scan').hexdigest()[:8]}.json"
    old.write_text('{"1/2": "Texas", "3/4": "kept elsewhere"}')
    folder = WorkFolder(tmp_path)
    folder.labels.set("org/clt/3/4", "newer")
    assert folder.labels_of("org/clt", "a/scan") == {"1/2": "Texas", "3/4": "newer"}
    folder.labels.set("org/clt/1/2", "")
    assert WorkFolder(tmp_path).labels_of("org/clt", "a/scan") == {"3/4": "newer"}  # gone for good


def test_a_broken_graph_in_the_folder_hides_no_other(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    folder.write_graph("good", {"metadata": {"prompt": "p"}})
    for name, text in (("cut", '{"metadata":'), ("list", "[]"), ("odd", '{"metadata": 3}'), ("empty", "")):
        (tmp_path / "graphs" / f"{name}.json").write_text(text)
    assert [row["slug"] for row in folder.summaries()] == ["good"]


def test_the_default_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "thoughtscope"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "share" / "thoughtscope"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_folder() == tmp_path / "Library" / "Application Support" / "thoughtscope"


def test_slugs_are_readable_and_plain(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    for prompt in ("Fact: the capital of", "«Ça va?»", "北京", "../../etc", "", "x" * 1000):
        folder.graph_path(slug_of(prompt))
    assert slug_of("Fact: the Capital").startswith("fact-the-capital-")


def test_errors_are_json_even_when_a_verb_breaks(
    session: Session, page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect with a /secret/path in its text")

    monkeypatch.setattr("thoughtscope.microscope.page_graph", broken)
    client = client_of(session, page=page)
    answer = client.get("/api/graphs/a")
    assert (answer.status_code, error_code(answer)) == (500, "internal")
    assert "/secret/path" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert json.loads(client.get("/health").text)["ok"] is True
