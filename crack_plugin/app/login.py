"""The form that asks for the token."""

from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from crack_plugin.app.access import COOKIE, LOGIN
from crack_plugin.app.token import cookie_of, is_token

_LONGEST = 4096
_FORM = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Token - crack_plugin</title>
<link rel="stylesheet" href="/static/style.css">
</head>
<body class="login">
<main>
<h1>crack_plugin</h1>
<form method="post" action="{action}">
<label for="token">Token that the page was started with</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Enter</button>
<p role="alert">{error}</p>
</form>
</main>
</body>
</html>
"""


def login_routes(token: str) -> list[Route]:
    """Where users enter the token, which their browser then keeps until it is closed."""

    def form(error: str = '', status: int = 200) -> Response:
        return HTMLResponse(_FORM.format(action=LOGIN, error=escape(error)), status)

    def show(request: Request) -> Response:
        return form()

    async def enter(request: Request) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > _LONGEST:
                return form('This is not the token.', 413)
        given = parse_qs(content.decode(errors='replace')).get('token', [''])[0]
        if not is_token(given, token):
            return form('This is not the token.', 403)
        response = RedirectResponse('/', 303)
        response.set_cookie(COOKIE, cookie_of(token), httponly=True, samesite='strict')
        return response

    return [Route(LOGIN, show), Route(LOGIN, enter, methods=['POST'])]
