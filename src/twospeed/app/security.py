"""Who may talk to the server: one check in front of everything, for requests and web sockets alike.

The page is a program on this machine that reads and writes files, so a web page elsewhere must not be able to use it:
not by a name that is made to resolve to 127.0.0.1 (Host), not from another origin or another port (Origin,
Sec-Fetch-Site), not without the cookie that only the token printed at the start gives.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from fastapi.datastructures import Headers
from fastapi.responses import JSONResponse

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}
MOST_JSON = 1 << 20
MOST_MASK = 32 << 20
MOST_CHUNK = 8 << 20
_WRONG_LOGINS = 10  # a minute


class Keys:
    """The token that is printed, tokens that work once, and the cookie that a token is exchanged for."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self.cookie_name = f"twospeed-{port}"
        self._cookie = secrets.token_urlsafe(32)
        self._once: set[str] = set()
        self._wrong: deque[float] = deque(maxlen=_WRONG_LOGINS)

    def one_time(self) -> str:
        """Return a token that logs in once."""
        token = secrets.token_urlsafe(24)
        self._once.add(token)
        return token

    def login(self, token: str) -> str | None:
        """Return the value of the Set-Cookie header for a right token, else None."""
        given = token.encode("utf-8", "replace")
        right = secrets.compare_digest(given, self.token.encode())
        for once in list(self._once):
            if secrets.compare_digest(given, once.encode()):
                self._once.discard(once)
                right = True
        if not right:
            self._wrong.append(time.monotonic())
            return None
        return f"{self.cookie_name}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"

    @property
    def blocked(self) -> bool:
        """Whether there were too many wrong logins in the last minute."""
        return len(self._wrong) == _WRONG_LOGINS and time.monotonic() - self._wrong[0] < 60

    def knows(self, cookies: str) -> bool:
        """Whether a Cookie header holds the cookie."""
        try:
            held = SimpleCookie(cookies).get(self.cookie_name)
        except CookieError:
            return False
        return held is not None and secrets.compare_digest(held.value.encode(), self._cookie.encode())


class Guard:
    """ASGI middleware in front of routing. port: the one that is bound; nothing is derived from a request."""

    def __init__(self, app: Any, keys: Keys, port: int) -> None:
        self._app, self._keys = app, keys
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *Headers(HEADERS).raw]
            await send(message)

        await self._app(scope, _limited(scope, receive), sent)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            if key in headers and key in ("host", "origin", "content-length"):
                return 400, f"the header {key} came twice"
            headers[key] = f"{headers[key]}; {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        host = headers.get("host", "")
        if host not in self._hosts:
            return 403, "this server answers to 127.0.0.1 and localhost only; open the address that was printed"
        socket = scope["type"] == "websocket"
        unsafe = socket or scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if unsafe and headers.get("origin") != f"http://{host}":
            return 403, "the request comes from another page"
        path = scope["path"]
        public = path == "/" or path.startswith("/static/") or path == "/api/login"
        allowed = ("same-origin",) if unsafe else ("same-origin", "none")
        if (unsafe or not public) and headers.get("sec-fetch-site", "same-origin") not in allowed:
            return 403, "the request comes from another site"
        if "\0" in path or "\\" in path or ".." in path.split("/") or b"%2f" in scope.get("raw_path", b"").lower():
            return 400, "the path is not one of this server's"
        if not public and not self._keys.knows(headers.get("cookie", "")):
            return 401, "log in first: open the address with its token that `twospeed app` printed"
        if socket:
            return None
        return _wrong_body(scope["method"], path, headers)


def _wrong_body(method: str, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
    length = headers.get("content-length", "0")
    if method in ("POST", "PATCH") and headers.get("content-type", "").split(";")[0].strip() != "application/json":
        return 415, "send JSON as application/json"
    if not length.isdecimal() or int(length) > _most(method, path):
        return 413, f"a body of {length[:20]} bytes is too long; {_most(method, path)} is the most"
    return None


def _most(method: str, path: str) -> int:
    if method != "PUT":
        return MOST_JSON
    return MOST_CHUNK if path.startswith("/api/uploads/") else MOST_MASK


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Count a body that states no length, and cut it off where it is too long."""
    if scope["type"] != "http":
        return receive
    left = _most(scope["method"], scope["path"])

    async def received() -> MutableMapping[str, Any]:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        return {"type": "http.disconnect"} if left < 0 else message

    return received


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: 403
        return
    await JSONResponse({"error": why}, status, headers=HEADERS)(scope, receive, send)
