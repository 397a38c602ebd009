"""ASGI middleware that checks host, origin, token and size of every request and sets security headers.

A page of another site can make a browser send requests here. It cannot read the answers, but it could have the model
work, or, by letting its own name resolve to this machine (DNS rebinding), pass for the same site. So the Host header
must name this server, and the Origin header, which scripts cannot forge, must be this server's.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import traceback
from collections import Counter, deque
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_scopes.server.api.problems import Refusal, defect
from lens_scopes.server.settings import Access, Limits

logger = logging.getLogger("lens_scopes.server")

_MAX_AT_ONCE = 256
_COOKIE = "lens_scopes_token"
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.IGNORECASE | re.ASCII)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._active = 0
        self._open_bodies: Counter[str] = Counter()
        ancestors = " ".join(access.frame_ancestors) or "'none'"
        self._policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            f"base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websockets here: the server closes what nobody accepts
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "Content-Security-Policy": self._policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            response = self._refuse(scope)
            if response is None:
                # A request counts once its body is there: one that never comes takes nobody's place.
                receive = await self._with_body(scope, receive)
                if self._active >= _MAX_AT_ONCE:
                    raise Refusal(
                        503, "too many requests at once; try again in a moment.", headers={"Retry-After": "5"}
                    )
                self._active += 1
                try:
                    await self._app(scope, receive, send_with_headers)
                finally:
                    self._active -= 1
                return
        except Refusal as refusal:
            response = refusal.response()
        except Exception as error:
            # Without the message: it may quote the prompt, and nothing typed is logged.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("a request failed with %s\n%s", type(error).__name__, frames)
            response = defect().response()
        # An answer that has begun can no longer become a refusal.
        if not has_started:
            await response(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        """What to answer in place of the application, or None.

        Raises:
            Refusal: for what is not to be answered.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self._access.hosts and not (self._access.any_address and _is_address(name)):
            raise Refusal(421, "this server is not the one that the Host header names.")
        if scope["path"] != "/" or scope["method"] != "GET":  # another site may link to the page, and no more
            origin = headers.get("origin")
            is_foreign = origin is not None and _host_and_port(origin) != host.lower()
            if is_foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refusal(403, "requests from other sites are not answered.")
        response = self._enter(scope, headers)
        if response is not None:
            return response
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "the Content-Length header is not a number.")
        if int(length) > self._limits.request_bytes:
            raise self._too_large()
        return None

    def _enter(self, scope: Scope, headers: Headers) -> Response | None:
        """Checks the token, where there is one; a visit with it in the address gets a cookie for it."""
        token = self._access.token
        if token is None:
            return None
        token_in_address = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        # Browsers send a cookie to all ports of a host: servers on other ports have names of their own.
        name = f"{_COOKIE}_{_port(headers.get('host', ''), scope['scheme'])}"
        if scope["path"] == "/" and _equal(token_in_address, token):
            response = RedirectResponse("/", 303)
            response.set_cookie(name, token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
            return response
        # A page has the cookie; a program sends the token as a bearer.
        cookie = _cookies(headers.get("cookie", "")).get(name)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if cookie is not None and _equal(cookie.value, token):
            return None
        if kind.lower() == "bearer" and _equal(bearer.strip(), token):
            return None
        raise Refusal(
            401,
            "this server wants its token: open the address with ?token=… that it printed when it started.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """A receiver that has the whole body.

        Raises:
            Refusal: 413 for a body that becomes too large, whatever length it claimed; 408 for one that does not come
                in time; 503 where many of the same client are awaited.
        """
        client = (scope.get("client") or ("",))[0]
        if self._open_bodies[client] >= self._limits.bodies_per_client:
            raise Refusal(503, "too many unfinished requests; finish those first.", headers={"Retry-After": "5"})
        # Bodies that never come take up the client's own share alone.
        self._open_bodies[client] += 1
        try:
            messages = await asyncio.wait_for(self._body(receive), self._limits.body_seconds)
        except asyncio.TimeoutError:  # noqa: UP041 (another class before Python 3.11)
            raise Refusal(
                408,
                f"the body did not come within {self._limits.body_seconds:g} seconds.",
                headers={"Connection": "close"},
            ) from None
        finally:
            self._open_bodies[client] -= 1
            if not self._open_bodies[client]:
                del self._open_bodies[client]

        async def receive_body() -> Message:
            return messages.popleft() if messages else await receive()

        return receive_body

    async def _body(self, receive: Receive) -> deque[Message]:
        messages: deque[Message] = deque()
        size = 0
        while not messages or messages[-1].get("more_body", False):
            # Counted as it comes: a Content-Length may lie, and a chunked body has none.
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            if size > self._limits.request_bytes:
                raise self._too_large()
        return messages

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request is larger than the {self._limits.request_bytes} bytes this server takes.")


def _host_name(host: str) -> str:
    """The name in a Host header, without the port; "" where it is none."""
    match = _HOST.fullmatch(host)
    return match[1].strip("[]").rstrip(".").lower() if match else ""


def _port(host: str, scheme: str) -> str:
    """The port in a Host header, as the browser knows the server."""
    match = _HOST.fullmatch(host)
    return (match[2] if match else None) or ("443" if scheme == "https" else "80")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _host_and_port(origin: str) -> str:
    """Those of an Origin, to be compared with the Host header: behind a proxy that ends TLS the schemes differ."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _cookies(header: str) -> SimpleCookie:
    try:
        return SimpleCookie(header)
    except CookieError:
        return SimpleCookie()


def _equal(candidate: str, token: str) -> bool:
    # In constant time, which tells nothing about how much of a guess is right.
    return hmac.compare_digest(candidate.encode(), token.encode())
