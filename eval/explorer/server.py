"""Serves the page, and nothing else: what Gradio could do beyond that is refused before it."""

import json
import logging
import socket

import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from models.errors import InputError

log = logging.getLogger("explore")

# What a browser asks for that shows the page. Uploads, files, proxies and histories are not in it.
_READ = (
    "/assets/", "/static/", "/svelte/", "/config", "/theme.css", "/favicon.ico", "/manifest.json",
    "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/queue/data", "/gradio_api/heartbeat/",
    "/gradio_api/call/", "/gradio_api/startup-events",
)  # fmt: skip
_WRITE = ("/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/cancel", "/gradio_api/reset")
_LARGEST = 2**16  # bytes of a request: the values of all controls are far less
# Browsers then ask no other host for anything, whatever a page says.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'none'; base-uri 'self'"
)
_EVERY_HOST = ("0.0.0.0", "::", "*")


class Guard:
    """An ASGI application before another: only what the page needs gets through.

    Args:
        app: what is guarded.
    """

    def __init__(self, app):
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # closes a web socket before it is accepted
        path, method = scope["path"], scope["method"]
        known = path == "/" or path.startswith(_READ)
        if method == "POST":
            known = path.startswith(_WRITE)
        if not known or method not in ("GET", "HEAD", "POST"):
            await PlainTextResponse("not found\n", 404)(scope, receive, send)
            return
        if method == "POST":
            body = await _body(receive)
            if body is None or not _plain(body):
                text = "values are numbers, texts or nothing, and few\n"
                await PlainTextResponse(text, 400)(scope, receive, send)
                return
            receive = _again(body, receive)

        async def send_with_policy(message) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", _POLICY.encode()),
                       (b"referrer-policy", b"no-referrer"),
                       (b"x-content-type-options", b"nosniff")]  # fmt: skip
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, send_with_policy)


async def _body(receive) -> bytes | None:
    """The body of a request, or None if it is too large or was broken off."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > _LARGEST:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive):
    """A ``receive`` that gives the body that was read, and then what follows."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay():
        return parts.pop() if parts else await receive()

    return replay


def _plain(body: bytes) -> bool:
    """Whether a request gives the controls numbers and texts only.

    Gradio takes an object in their place for a file, which it would look for or fetch.
    """
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return False
    if not isinstance(content, dict):
        return False
    data = content.get("data") or []
    return isinstance(data, list) and all(
        value is None or isinstance(value, str | int | float) for value in data
    )


def application(host: str) -> FastAPI:
    """What the page is mounted on; with a host of this machine, it answers to that name alone."""
    # Other names than its own are those that a web page elsewhere may have given this address.
    names = ["*"] if host in _EVERY_HOST else [host, "127.0.0.1", "localhost", "::1", "[::1]"]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(Guard)]
    return FastAPI(middleware=middleware, docs_url=None, redoc_url=None, openapi_url=None)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Answer until interrupted.

    Raises:
        InputError: if the port is taken, or the host is not of this machine.
    """
    listening = listen(host, port)
    log.info("http://%s:%d", f"[{host}]" if ":" in host else host, port)
    if host in _EVERY_HOST:
        log.warning("host=%s: everybody who can reach this machine can use the page", host)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run([listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; see ``serve``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"host={host} port={port}: {error.strerror or error}; is the page open already? "
            "Choose another port, or host=127.0.0.1 for this machine"
        ) from error
