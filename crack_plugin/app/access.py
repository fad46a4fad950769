"""Who may ask for what: the same page alone, a token where others can reach the machine, and nothing from outside."""

import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crack_plugin.app.token import cookie_of

COOKIE = 'crack_plugin'
LOGIN = '/login'
_OPEN = (LOGIN, '/static/style.css')
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    # Nothing outside this machine is asked for, whatever the page says.
    'Content-Security-Policy': _CONTENT_POLICY,
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}


class Guard:
    """ASGI middleware: refuses other sites' requests, asks for the token, and sends the headers of a closed page.

    Args:
        app: What is asked for.
        token: What users have to know; None for nothing.
        hosts: Names that the machine may be called by, without port; empty for any. Other names are other sites' whose
            name was made to lead here.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, hosts
        self._cookie = None if token is None else cookie_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope['type'] != 'http':
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        if self._hosts and urlsplit(f'//{headers.get("host", "")}').hostname not in self._hosts:
            return JSONResponse({'error': f'this page is at {self._hosts[0]} alone.'}, 403)
        origin = headers.get('origin')
        is_foreign = origin is not None and urlsplit(origin).netloc != headers.get('host')
        if scope['method'] not in ('GET', 'HEAD') and is_foreign:
            return JSONResponse({'error': 'another site asks for this.'}, 403)
        if self._cookie is None or scope['path'] in _OPEN or self._knows(headers):
            return None
        if scope['path'] == '/':
            return RedirectResponse(LOGIN, 303)
        return JSONResponse({'error': 'enter the token first: load the page again.'}, 401)

    def _knows(self, headers: Headers) -> bool:
        cookies: SimpleCookie = SimpleCookie()
        try:
            cookies.load(headers.get('cookie', ''))
        except CookieError:
            return False
        given = cookies.get(COOKIE)
        return given is not None and hmac.compare_digest(given.value.encode(), (self._cookie or '').encode())
