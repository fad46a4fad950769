"""What a request says, checked: browsers of any kind can ask."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from crack_plugin.app.limits import AppError, LimitError

_LONGEST_JSON = 2**20


async def read_body(request: Request, longest: int) -> bytes:
    """The body of a request.

    Raises:
        LimitError: It is longer than ``longest`` bytes; the rest is not read.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > longest:
            raise LimitError(f'more than the {longest:,} bytes that belong here were sent.')
    return bytes(content)


async def read_json(request: Request) -> Mapping[str, Any]:
    """The JSON object that a request has for a body.

    Raises:
        AppError: It has another.
    """
    try:
        content = json.loads(await read_body(request, _LONGEST_JSON))
    except ValueError as error:
        raise AppError(f'the request is no JSON: {error}.') from error
    if not isinstance(content, dict):
        raise AppError('the request is no JSON object.')
    return content


def text_of(body: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """A text; an error where there is none, and no default."""
    value = body.get(key, default)
    if not isinstance(value, str):
        raise AppError(f'{key} is missing.')
    return value


def number_of(body: Mapping[str, Any], key: str) -> float:
    """A number; an error where there is none."""
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AppError(f'{key} is no number.')
    return float(value)


def whole_number_of(body: Mapping[str, Any], key: str) -> int | None:
    """A whole number, or None where there is nothing."""
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise AppError(f'{key} is no whole number.')
    return value


def points_of(value: Any) -> list[list[float]]:
    """A list of lists of numbers."""
    if not (isinstance(value, list) and all(isinstance(point, list) for point in value)):
        raise AppError('points are pairs of numbers.')
    numbers = [number for point in value for number in point]
    if not all(isinstance(number, (int, float)) for number in numbers):
        raise AppError('points are pairs of numbers.')
    return value


def threshold_of(request: Request) -> float:
    """The number in the query."""
    text = request.query_params.get('threshold', '')
    try:
        return float(text)
    except ValueError as error:
        raise AppError(f'threshold is {text!r}, wanted is a number.') from error
