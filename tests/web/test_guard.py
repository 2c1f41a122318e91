"""Who may ask, and what every answer carries."""

import socket

import pytest
from fastapi import APIRouter, Request
from loopback import Client, serving

from zeronvs._core.errors import InputError
from zeronvs.web.guard import HEADERS, MAX_JSON_BYTES, read_json_body
from zeronvs.web.server import listening_socket, make_app, serve


@pytest.fixture(scope="module")
def client():
    router, said = APIRouter(), []

    @router.get("/", response_model=None)
    def page() -> list:
        return said

    @router.post("/", response_model=None)
    async def say(request: Request) -> list:
        said.append(await read_json_body(request))
        return said

    with serving(make_app([router], host="scenes.example")) as address:
        yield Client(address)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8050", 403),
        ("", 403),
        ("[::1", 403),
        ("evil.example@127.0.0.1", 200),  # names 127.0.0.1, which cannot be rebound
        ("127.0.0.1:8050", 200),
        ("localhost", 200),
        ("[::1]:8050", 200),
        ("192.168.7.5", 200),
        ("SCENES.example:80", 200),
    ],
)
def test_a_host_that_could_be_rebound_is_refused(client: Client, host: str, status: int):
    answer = client("GET", "/", host=host)
    assert answer.status == status


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1", "http://127.0.0.1:1"]
)
def test_what_changes_something_must_come_from_a_page_of_ours(client: Client, origin):
    before = client("GET", "/").json
    assert client("POST", "/", {"a": 1}, origin=origin).status == 403
    assert client("GET", "/").json == before
    assert client("POST", "/", {"a": 1}).json == [*before, {"a": 1}]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/", {}, 405),
        ("POST", "/", {}, 415),
        ("GET", "/", {"host": "evil.example"}, 403),
    ],
)
def test_every_answer_carries_the_headers_that_protect(client, method, path, headers, status):
    answer = client(method, path, **headers)
    assert answer.status == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    if status != 200:
        assert list(answer.json) == ["error"]
        assert answer.headers["content-type"] == "application/json"


def test_the_policy_admits_no_script_but_ours():
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a": NaN}', 422),
        (b"[" * 1000 + b"]" * 1000, 422),
        (b"\xff\xfe", 422),
        (b"", 422),
        (b" " * (MAX_JSON_BYTES + 1), 413),
    ],
)
def test_only_strict_json_of_bounded_size_is_read(client: Client, body: bytes, status: int):
    answer = client("POST", "/", body, content_type="application/json")
    assert answer.status == status
    assert answer.json["error"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_site_can_send_is_refused(client: Client, kind):
    assert client("POST", "/", b'{"a": 1}', content_type=kind).status == 415


def test_a_port_in_use_and_a_foreign_address_give_one_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"port: {port} of 127.0.0.1 cannot be served"):
            serve(make_app([], host=""), host="127.0.0.1", port=port, started=print)
    with pytest.raises(InputError, match="host: 'no such host' is no address of this machine"):
        listening_socket("no such host", 0)
