"""The page as an ASGI application: its addresses, what each takes, and what it answers."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from crack_plugin.app import corrections, jobs, results
from crack_plugin.app.access import Guard
from crack_plugin.app.limits import AppError, LimitError, UnknownError, megabytes
from crack_plugin.app.login import login_routes
from crack_plugin.app.maps import check_corrections, checked_scale, scale_of
from crack_plugin.app.models import Models, check_prompt
from crack_plugin.app.photographs import NOW, Photograph
from crack_plugin.app.reading import (
    number_of,
    points_of,
    read_body,
    read_json,
    text_of,
    threshold_of,
    whole_number_of,
)
from crack_plugin.app.sessions import Session, Sessions
from crack_plugin.app.training import Trainer
from crack_plugin.errors import CrackPluginError, message
from crack_plugin.inspection.severity import PROFILES

# The name is none of a package, which setuptools would take the folder for.
STATIC = Path(__file__).with_name('static-files')
_UNCHECKED = 2**23
"""Bytes of an upload that are written before the room is looked at again."""
_SECONDS_TO_SWEEP = 5
_DOWNLOADS = ('mask.png', 'overlay.jpg')


@dataclass(frozen=True)
class Parts:
    """What the page is made of.

    Attributes:
        sessions: Of its users.
        models: That predict.
        worker: In which they do.
        trainer: Of adapters.
        datasets: Folder that corrections are saved in.
        examples: Photographs to try it with, by name, as PNG.
    """

    sessions: Sessions
    models: Models
    worker: jobs.Worker
    trainer: Trainer
    datasets: Path
    examples: Mapping[str, bytes]


def make_app(parts: Parts, token: str | None = None, hosts: Sequence[str] = ()) -> Starlette:
    """The application, which deletes all sessions when it ends.

    Args:
        parts: What it is made of.
        token: What users have to know; None for nothing.
        hosts: Names that the machine may be called by; empty for any.
    """
    page = _Page(parts)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(page.sweep())
        yield
        sweeping.cancel()
        await run_in_threadpool(page.close)

    session, photograph = '/sessions/{key}', '/sessions/{key}/photographs/{number:int}'
    routes = [
        Route('/', page.index),
        Mount('/static', StaticFiles(directory=STATIC)),
        *(login_routes(token) if token is not None else []),
        Route('/facts', page.facts),
        Route('/sessions', page.open, methods=['POST']),
        Route(session, page.state),
        Route(f'{session}/leave', page.leave, methods=['POST']),
        Route(f'{session}/photographs', page.upload, methods=['POST']),
        Route(f'{session}/examples', page.add_examples, methods=['POST']),
        Route(f'{session}/predict', page.predict, methods=['POST']),
        Route(f'{session}/cancel', page.cancel, methods=['POST']),
        Route(f'{session}/dataset', page.save, methods=['POST']),
        Route(f'{session}/train', page.train, methods=['POST']),
        Route(f'{session}/stop-training', page.stop_training, methods=['POST']),
        Route(f'{session}/results/{{name}}', page.result),
        Route(photograph, page.remove, methods=['DELETE']),
        Route(f'{photograph}/picture', page.picture),
        Route(f'{photograph}/maps/{{which}}', page.map),
        Route(f'{photograph}/corrections', page.read_corrections),
        Route(f'{photograph}/corrections', page.correct, methods=['PUT']),
        Route(f'{photograph}/scale', page.scale, methods=['POST']),
        Route(f'{photograph}/cracks', page.cracks),
        Route(f'{photograph}/widths', page.widths),
        Route(f'{photograph}/files/{{name}}', page.download),
    ]
    handlers: dict[Any, Callable] = {CrackPluginError: _told, HTTPException: _http, Exception: _fault}
    # Starlette raises what `_fault` has told of again, which leaves its traceback in the terminal.
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=tuple(hosts))],
        exception_handlers=handlers,
        lifespan=lifespan,
    )


class _Page:
    """The answers. Those that compute are plain functions, which Starlette calls in threads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def sweep(self) -> None:
        """Delete what is over, again and again."""
        while True:
            await asyncio.sleep(_SECONDS_TO_SWEEP)
            await run_in_threadpool(self._parts.sessions.sweep)

    def close(self) -> None:
        """Stop and delete everything."""
        self._parts.worker.close()
        self._parts.trainer.stop()
        self._parts.sessions.close()

    def index(self, request: Request) -> Response:
        """The page."""
        return FileResponse(STATIC / 'index.html')

    def open(self, request: Request) -> Response:
        """Begin a session."""
        return JSONResponse({'key': self._parts.sessions.open()}, 201)

    def facts(self, request: Request) -> Response:
        """What the page has to know once."""
        models, limits = self._parts.models, self._parts.sessions.limits
        return JSONResponse(
            {
                'prompt': models.prompt,
                'threshold': models.threshold,
                'in_windows': models.in_windows,
                'window': models.window,
                'step': models.step,
                # The source up to its first comma is its name.
                'severities': [{'key': key, 'name': each.source.partition(',')[0]} for key, each in PROFILES.items()],
                'examples': len(self._parts.examples),
                'upload_bytes': limits.upload_bytes,
                'limits': (
                    f'Up to {megabytes(limits.upload_bytes)} and {limits.pixels / 1e6:,.0f} megapixels a photograph, '
                    f'{megabytes(limits.session_bytes)} in all. Photographs and results are deleted when you close '
                    f'the page, or after {limits.idle_seconds / 60:,.0f} minutes without it.'
                ),
            }
        )

    def state(self, request: Request) -> Response:
        """What changes: photographs, the prediction and the training on their way, the weights to choose from."""
        session, parts = self._session(request), self._parts
        job, run = parts.worker.job(session), parts.trainer.run
        return JSONResponse(
            {
                'photographs': [photograph.facts() for photograph in session.photographs],
                'bytes': session.bytes,
                'job': None if job is None else job.facts(),
                'training': None if run is None else run.facts(),
                'weights': [{'key': each.key, 'name': each.name} for each in parts.models.choices()],
            }
        )

    def leave(self, request: Request) -> Response:
        """The page is closed, or is being loaded again."""
        self._parts.sessions.leave(request.path_params['key'])
        return Response(status_code=204)

    async def upload(self, request: Request) -> Response:
        """Add a photograph: its name in the query, its bytes as they are."""
        session = self._session(request)
        limits, name = session.limits, request.query_params.get('name', '')
        announced = request.headers.get('content-length', '')
        if announced.isdecimal() and int(announced) > limits.upload_bytes:
            raise _too_large(name, limits.upload_bytes)
        await run_in_threadpool(session.check_room, int(announced) if announced.isdecimal() else 0)
        size = checked = 0
        with tempfile.NamedTemporaryFile(dir=session.folder, prefix='upload-', delete=False) as file:
            path = Path(file.name)
            try:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limits.upload_bytes:
                        raise _too_large(name, limits.upload_bytes)
                    file.write(chunk)
                    if size - checked > _UNCHECKED:
                        # Others of the same session may come in beside it.
                        checked = size
                        await run_in_threadpool(session.check_room, 0)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        photograph = await run_in_threadpool(session.add, name, path)
        return JSONResponse(photograph.facts(), 201)

    def add_examples(self, request: Request) -> Response:
        """Add the example pictures."""
        session = self._session(request)
        added = []
        for name, content in self._parts.examples.items():
            session.check_room(len(content))
            with tempfile.NamedTemporaryFile(dir=session.folder, prefix='upload-', delete=False) as file:
                file.write(content)
            added.append(session.add(name, Path(file.name)).facts())
        return JSONResponse(added, 201)

    def remove(self, request: Request) -> Response:
        """Delete a photograph."""
        self._session(request).remove(request.path_params['number'])
        return Response(status_code=204)

    async def predict(self, request: Request) -> Response:
        """Find cracks, in the background."""
        session, body = self._session(request), await read_json(request)
        job = await run_in_threadpool(self._start, session, body)
        return JSONResponse(job.facts(), 202)

    def _start(self, session: Session, body: Mapping[str, Any]) -> jobs.Job:
        prompt = check_prompt(text_of(body, 'prompt'))
        weights = self._parts.models.weights(text_of(body, 'weights')).key
        window, step = whole_number_of(body, 'window'), whole_number_of(body, 'step')
        before = text_of(body, 'before', '') or None
        if before is not None:
            before = self._parts.models.weights(before).key
        numbers = body.get('photographs')
        photographs = session.photographs
        if isinstance(numbers, list):
            photographs = [session.photograph(number) for number in numbers]
        settings = jobs.checked_settings(weights, prompt, window, step)
        return self._parts.worker.start(session, jobs.Request(photographs, settings, before))

    def cancel(self, request: Request) -> Response:
        """Stop finding cracks."""
        self._parts.worker.cancel(self._session(request))
        return Response(status_code=204)

    def picture(self, request: Request) -> Response:
        """The photograph as JPEG."""
        return FileResponse(self._photograph(request).picture, media_type='image/jpeg')

    def map(self, request: Request) -> Response:
        """The probability map, a byte a pixel."""
        return _bytes(self._photograph(request).probability(request.path_params['which']))

    def read_corrections(self, request: Request) -> Response:
        """The corrections, a byte a pixel."""
        return _bytes(self._photograph(request).corrections())

    async def correct(self, request: Request) -> Response:
        """Keep corrections, a byte a pixel."""
        session, photograph = self._session(request), self._photograph(request)
        content = await read_body(request, photograph.pixels)

        def keep() -> None:
            with session.lock:
                session.check_room(photograph.pixels)
                photograph.correct(check_corrections(content, photograph.shape))

        await run_in_threadpool(keep)
        return JSONResponse(photograph.facts())

    async def scale(self, request: Request) -> Response:
        """Set the scale of a photograph, or of all: a number, or two places and the length between them."""
        session, photograph, body = self._session(request), self._photograph(request), await read_json(request)
        value = body.get('mm_per_pixel')
        if value is None and 'points' in body:
            value = scale_of(points_of(body['points']), number_of(body, 'length'))
        elif value is not None:
            value = checked_scale(number_of(body, 'mm_per_pixel'))
        photographs = session.photographs if body.get('for_all') is True else [photograph]
        if photographs == [photograph] and photograph.is_georeferenced:
            raise AppError(f'{photograph.name} is a GeoTIFF, which says its scale itself.')
        for each in photographs:
            if not each.is_georeferenced:
                each.mm_per_pixel = value
        return JSONResponse({'mm_per_pixel': value})

    def cracks(self, request: Request) -> Response:
        """The cracks, each measured."""
        profile = results.find_profile(request.query_params.get('severity', ''))
        found = results.find(self._photograph(request), threshold_of(request), profile)
        return JSONResponse({'cracks': results.rows(found), 'source': profile.source if profile else None})

    def widths(self, request: Request) -> Response:
        """The widths, a byte a pixel; what the largest byte stands for is in a header."""
        photograph = self._photograph(request)
        values, largest = results.widths(results.find(photograph, threshold_of(request)))
        unit = 'px' if photograph.mm_per_pixel is None else 'mm'
        return _bytes(values, {'X-Largest': f'{largest:.6g}', 'X-Unit': unit})

    def download(self, request: Request) -> Response:
        """The mask or the overlay of a photograph."""
        photograph, name = self._photograph(request), request.path_params['name']
        if name not in _DOWNLOADS:
            raise UnknownError(f'{name}: there are {", ".join(_DOWNLOADS)}.')
        make = results.mask_png if name == 'mask.png' else results.overlay_jpg
        content = make(photograph, threshold_of(request))
        return Response(content, headers=_attachment(f'{photograph.file.stem}_{name}'))

    def result(self, request: Request) -> Response:
        """A file of all photographs together."""
        session, name = self._session(request), request.path_params['name']
        if name not in (*results.FILES, results.ARCHIVE):
            raise UnknownError(f'{name}: there are {", ".join((*results.FILES, results.ARCHIVE))}.')
        profile = results.find_profile(request.query_params.get('severity', ''))
        with session.lock:
            folder = results.build(session, self._parts.models, threshold_of(request), profile)
            content = (folder / name).read_bytes()
        return Response(content, headers=_attachment(name))

    async def save(self, request: Request) -> Response:
        """Save the photographs that were corrected, or those that are named, in a dataset."""
        session, body = self._session(request), await read_json(request)

        def save() -> list[str]:
            dataset = self._dataset(body)
            numbers = body.get('photographs')
            with session.lock:
                photographs = [each for each in session.photographs if each.is_corrected and NOW in each.predicted]
                if isinstance(numbers, list):
                    photographs = [session.photograph(number) for number in numbers]
                threshold, name = number_of(body, 'threshold'), self._parts.models.prompt
                return corrections.save(photographs, dataset, threshold, name, session.limits)

        return JSONResponse({'lines': await run_in_threadpool(save)})

    async def train(self, request: Request) -> Response:
        """Start a training on a dataset."""
        self._session(request)
        body = await read_json(request)

        def start() -> dict[str, Any]:
            dataset, models = self._dataset(body), self._parts.models
            if not corrections.count(dataset):
                raise AppError('nothing is saved to train on yet: press "Save corrections" first.')
            prompt, weights = check_prompt(text_of(body, 'prompt')), models.weights(text_of(body, 'weights'))
            epochs = whole_number_of(body, 'epochs') or 0
            return self._parts.trainer.start(dataset, weights, prompt, models.prompt, epochs).facts()

        return JSONResponse(await run_in_threadpool(start), 202)

    def stop_training(self, request: Request) -> Response:
        """Stop the training."""
        self._session(request)
        self._parts.trainer.stop()
        return Response(status_code=204)

    def _session(self, request: Request) -> Session:
        return self._parts.sessions.get(request.path_params['key'])

    def _photograph(self, request: Request) -> Photograph:
        return self._session(request).photograph(request.path_params['number'])

    def _dataset(self, body: Mapping[str, Any]) -> Path:
        return self._parts.datasets / corrections.checked_name(text_of(body, 'dataset'))


def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, CrackPluginError)
    return JSONResponse({'error': message(error)}, getattr(error, 'status', 400))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({'error': error.detail}, error.status_code)


def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse({'error': jobs.in_words(error)}, 500)


def _too_large(name: str, limit: int) -> LimitError:
    return LimitError(
        f'{name} is larger than the {megabytes(limit)} that are allowed here. Save it as JPEG, or cut it.'
    )


def _bytes(values: np.ndarray, headers: Mapping[str, str] | None = None) -> Response:
    return Response(values.tobytes(), media_type='application/octet-stream', headers=headers)


def _attachment(name: str) -> dict[str, str]:
    ascii_name = name.encode('ascii', 'replace').decode().replace('"', '_')
    return {'Content-Disposition': f'attachment; filename="{ascii_name}"', 'Content-Type': 'application/octet-stream'}
