"""What gets through to the page: what it needs, from this machine, and nothing else."""

import asyncio
import json
import socket
import threading

import pytest

from eval.explorer.desk import Desk
from eval.explorer.setting import Setting
from models.errors import InputError
from tests import commands

gradio = pytest.importorskip("gradio", reason="pip install -r requirements-explore.txt")

import httpx  # noqa: E402  it comes with Gradio, as does the next
import uvicorn  # noqa: E402

from eval.explorer import page, server  # noqa: E402

JSON = {"Content-Type": "application/json"}
VALUES = ["T-shirt", 0, 1.5, "ddim", 4, 1, "fp32", 50, 0, 50]


@pytest.fixture(scope="module")
def client(studio, records):
    """A client of the page, which is served as the command serves it."""
    app = page.mounted(Desk(studio, [str(records)]), "127.0.0.1", 7860)
    listening = server.listen("127.0.0.1", 0)
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as found:
        yield found
    running.should_exit = True
    thread.join()


def answer(client, name, values):
    """(event, data) of the last event of a call."""
    joined = client.post(f"/gradio_api/call/{name}", json={"data": values})
    assert joined.status_code == 200, joined.text
    text = client.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
    *_, event, data = [line for line in text.splitlines() if line]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_by_default_only_this_machine_can_reach_the_page():
    config = commands.compose("explore")
    assert config.host == "127.0.0.1"
    with server.listen(config.host, 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"host=127.0.0.1 port={port}: .* another port"):
            server.listen("127.0.0.1", port)
    server.listen("127.0.0.1", port).close()  # and again once it is free


def test_a_host_that_is_not_this_machine_is_named():
    with pytest.raises(InputError, match="host=192.0.2.1 port=7860"):
        server.listen("192.0.2.1", 7860)


def test_the_page_is_there_and_lets_browsers_ask_no_other_host(client):
    found = client.get("/")
    assert found.status_code == 200 and "T-Stitch on fashion" in found.text
    policy = dict(
        part.strip().split(" ", 1) for part in found.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    for sources in policy.values():
        assert not [word for word in sources.split() if "." in word or "*" in word or "//" in word]


def test_a_page_elsewhere_cannot_give_this_address_a_name_of_its_own(client):
    assert client.get("/", headers={"Host": "elsewhere.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:7860"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=README.md", "/file=README.md",
        "/gradio_api/proxy=https://example.com/", "/gradio_api/runs", "/gradio_api/vibe-code",
        "/gradio_api/upload", "/monitoring", "/monitoring/summary", "/login_check", "/docs",
        "/openapi.json", "/gradio_api/deep_link", "/../etc/passwd",
    ],
)  # fmt: skip
def test_what_gradio_could_do_beside_the_page_is_not_there(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/assets/%2e%2e/%2e%2e/%2e%2e/package.json", "/static/..%2f..%2f"]
)
def test_no_file_outside_the_page_is_read(client, path):
    assert client.get(path).status_code in (403, 404)


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/process_recording", "/login"])
def test_nothing_is_uploaded(client, path):
    assert client.post(path, files={"files": ("a.png", b"a")}).status_code == 404
    assert client.put("/").status_code == 404


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [FILE, *VALUES[1:]]}).encode(),
        json.dumps({"data": [[FILE], *VALUES[1:]]}).encode(),
        json.dumps({"data": [{"url": "http://192.0.2.1/"}, *VALUES[1:]]}).encode(),
        json.dumps({"data": FILE}).encode(),
        json.dumps([FILE]).encode(),
        b'{"data": ["' + b"x" * 2**17 + b'"]}',
        b"[" * 60_000,
        b'{"data": [' + b"9" * 5000 + b"]}",
        b"\xff\xfe",
    ],
    ids=["file", "files", "url", "object", "list", "large", "deep", "long number", "no text"],
)
def test_a_request_that_is_no_list_of_plain_values_is_refused(client, body):
    found = client.post("/gradio_api/call/describe", content=body, headers=JSON)
    assert found.status_code == 400
    assert "root:" not in found.text and "Traceback" not in found.text


def test_a_web_socket_is_not_opened():
    sent = []

    async def never():
        raise AssertionError("the page asks nothing of a web socket")

    async def send(message):
        sent.append(message)

    asyncio.run(server.Guard(never)({"type": "websocket", "path": "/"}, never, send))
    assert sent == []


@pytest.mark.parametrize(
    "place, value, named",
    [
        (0, "../../etc/passwd", "class='../../etc/passwd' is unknown"),
        (0, "<img src=x onerror=alert(1)>", "class='&lt;img"),
        (1, 1e300, "seed=1e+300"),
        (2, float("nan"), "guidance=nan"),
        (3, "ddim sampler.spacing=/etc/passwd", "is unknown"),
        (4, 10**9, "steps=1000000000"),
        (7, 60, "must sum to 100"),
    ],
)
def test_what_the_controls_cannot_say_is_answered_by_an_error_on_the_page(
    client, place, value, named, capfd
):
    values = [*VALUES[:place], value, *VALUES[place + 1 :]]
    body = json.dumps({"data": values}).encode()  # httpx writes no NaN
    for name in ("describe", "sample"):
        joined = client.post(f"/gradio_api/call/{name}", content=body, headers=JSON)
        found = client.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text
        assert "event: error" in found and named in found
        assert "Traceback" not in found and ".py" not in found
    assert "Traceback" not in capfd.readouterr().err


def test_the_api_samples_what_the_page_samples(client, desk, studio):
    event, (cards,) = answer(client, "sample", VALUES)
    assert event == "complete"
    assert cards.count("data:image/png") == 8
    *_, expected = desk.sampled(Setting.read(VALUES, studio.offer), "here")
    pictures = [part for part in cards.split('"') if part.startswith("data:")]
    assert pictures == [part for part in expected.split('"') if part.startswith("data:")]


def test_nothing_is_told_to_others():
    assert gradio.Blocks().analytics_enabled is False
