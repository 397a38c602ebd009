"""ASGI middleware that checks host, origin, token and size of every request and sets security headers.

A page of another site can make a browser send requests here. It cannot read the answers, but it could have the model
work, or, by letting its own name resolve to this machine (DNS rebinding), pass for the same site. So the Host header
must name this server, and the Origin header, which scripts cannot forge, must be this server's.
"""

from __future__ import annotations

import hmac
import logging
import traceback
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lens_scopes.server.api.problems import Refusal, defect
from lens_scopes.server.settings import Access, Limits

logger = logging.getLogger("lens_scopes.server")

_MOST_AT_ONCE = 256
_COOKIE = "lens_scopes_token"
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
        started = False
        self._active += 1

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "Content-Security-Policy": self._policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            response = self._refuse(scope)
            if response is None:
                await self._app(scope, self._bounded(receive), send_with_headers)
                return
        except Refusal as refusal:
            response = refusal.response()
        except Exception as error:
            # Without the message: it may quote the prompt, and nothing typed is logged.
            frames = "".join(traceback.format_tb(error.__traceback__))
            logger.error("a request failed with %s\n%s", type(error).__name__, frames)
            response = defect().response()
        finally:
            self._active -= 1
        if not started:
            await response(scope, receive, send_with_headers)

    def _refuse(self, scope: Scope) -> Response | None:
        """What to answer in place of the application, or None.

        Raises:
            Refusal: for what is not to be answered.
        """
        if self._active > _MOST_AT_ONCE:
            raise Refusal(503, "too many requests at once; try again in a moment.", headers={"Retry-After": "5"})
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = _host_name(host)
        if name not in self._access.hosts and not (self._access.any_address and _is_address(name)):
            raise Refusal(421, "this server is not the one that the Host header names.")
        if scope["path"] != "/" or scope["method"] != "GET":  # another site may link to the page, and no more
            origin = headers.get("origin")
            elsewhere = origin is not None and _host_and_port(origin) != host.lower()
            if elsewhere or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                raise Refusal(403, "requests from other sites are not answered.")
        entered = self._enter(scope, headers)
        if entered is not None:
            return entered
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
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and _equal(given, token):
            response = RedirectResponse("/", 303)
            response.set_cookie(_COOKIE, token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
            return response
        cookie = _cookies(headers.get("cookie", "")).get(_COOKIE)
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

    def _bounded(self, receive: Receive) -> Receive:
        """Stops reading a body, whatever length it claimed, when it becomes too large."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limits.request_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request is larger than the {self._limits.request_bytes} bytes this server takes.")


def _host_name(host: str) -> str:
    """The name in a Host header, without the port; "" where it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


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


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
