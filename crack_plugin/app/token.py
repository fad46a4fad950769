"""The token that users have to know where other machines can reach the page."""

import hashlib
import hmac

from crack_plugin.app.limits import AppError

LOOPBACK = ('127.0.0.1', 'localhost', '::1')
SHORTEST_TOKEN = 16


def check_token(host: str, token: str | None) -> None:
    """Refuse to serve others without a token.

    Args:
        host: Address to listen at.
        token: What users have to know; None for nothing.

    Raises:
        AppError: There is none, or it is short.
    """
    if token is None and host not in LOOPBACK:
        raise AppError(
            f'--host {host} lets other machines in: give a --token of {SHORTEST_TOKEN} characters or more that their '
            "users have to enter, such as python -c 'import secrets; print(secrets.token_urlsafe())' prints."
        )
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise AppError(f'--token has {len(token)} characters, and {SHORTEST_TOKEN} are the least: it could be guessed.')


def cookie_of(token: str) -> str:
    """What a browser keeps in place of the token."""
    return hashlib.sha256(f'crack_plugin {token}'.encode()).hexdigest()


def is_token(given: str, token: str) -> bool:
    """Whether a user knows the token, in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), token.encode())
