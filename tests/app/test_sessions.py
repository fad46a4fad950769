"""Uploads: what is refused, who sees them, and when they are deleted."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from crack_plugin.app import photographs
from crack_plugin.app.limits import AppError, LimitError, Limits, UnknownError
from crack_plugin.app.photographs import BEFORE, NOW, Settings, file_name
from crack_plugin.app.sessions import Session, Sessions, remove_abandoned

SETTINGS = Settings('zero-shot', 'crack')
ROOMY = Limits(free_bytes=0)


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """One with room."""
    folder = tmp_path / 'session'
    folder.mkdir()
    return Session(folder, ROOMY)


def upload(session: Session, content: bytes | None = None, shape: tuple[int, int] = (30, 40)) -> Path:
    """What a browser sent: a PNG unless told otherwise."""
    path = session.folder / f'upload-{len(list(session.folder.iterdir()))}'
    image = np.full((*shape, 3), 90, np.uint8)
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes() if content is None else content)
    return path


@pytest.mark.parametrize(
    ('text', 'taken', 'name'),
    [
        ('a.jpg', set(), 'a.jpg'),
        ('../../etc/a.jpg', set(), 'a.jpg'),
        ('C:\\photos\\a b.JPG', set(), 'a b.JPG'),
        ('.hidden.png', set(), 'hidden.png'),
        ('Brücke 3.png', set(), 'Brücke 3.png'),
        ('a"<b>\n.png', set(), 'a__b__.png'),
        ('a.png', {'a'}, 'a-2.png'),
        ('A.png', {'a', 'a-2'}, 'A-3.png'),
        (f'{"x" * 300}.png', set(), f'{"x" * 80}.png'),
    ],
)
def test_name_is_safe_and_its_stem_free(text: str, taken: set[str], name: str) -> None:
    assert file_name(text, taken) == name


@pytest.mark.parametrize(('text', 'told'), [('a.txt', 'no photograph'), ('a', 'no photograph'), ('a.cr2', 'Convert')])
def test_other_formats_are_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(AppError, match=told):
        file_name(text, set())


def test_photograph_is_read_and_shown_as_its_owner_sees_it(session: Session) -> None:
    photograph = session.add('site.png', upload(session))
    assert (photograph.name, photograph.shape, photograph.mm_per_pixel) == ('site.png', (30, 40), None)
    shown = cv2.imread(str(photograph.picture))
    assert shown.shape == (30, 40, 3)
    assert abs(int(shown.mean()) - 90) <= 2


def test_refused_photograph_leaves_nothing_and_the_others_stay(session: Session) -> None:
    kept = session.add('kept.png', upload(session))
    before = session.bytes
    with pytest.raises(AppError, match=r'image broken\.png cannot be decoded') as refusal:
        session.add('broken.png', upload(session, b'no picture'))
    assert str(session.folder) not in str(refusal.value)
    session.limits = Limits(pixels=100, free_bytes=0)
    with pytest.raises(LimitError, match='too-large'):
        session.add('too-large.png', upload(session))
    assert session.photographs == [kept]
    assert session.bytes == before


def test_pixels_are_counted_before_they_are_decoded(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise AssertionError(f'{path} was decoded')

    monkeypatch.setattr(photographs, 'read_photograph', refuse)
    session.limits = Limits(pixels=1000, free_bytes=0)
    with pytest.raises(LimitError, match='40 x 30 pixels'):
        session.add('bomb.png', upload(session))


def test_session_keeps_no_more_than_it_may(tmp_path: Path) -> None:
    session = Session(tmp_path, Limits(session_bytes=6000, free_bytes=0))
    session.add('a.png', upload(session))
    with pytest.raises(LimitError, match='a session keeps at most'):
        session.add('b.png', upload(session, shape=(90, 90)))
    assert [photograph.name for photograph in session.photographs] == ['a.png']


def test_disk_is_never_filled(tmp_path: Path) -> None:
    limits = Limits(free_bytes=2**60)
    with pytest.raises(LimitError, match='the disk of this machine has'):
        limits.check_disk(tmp_path)
    sessions = Sessions(limits)
    with pytest.raises(LimitError, match='the disk'):
        sessions.open()
    sessions.close()


def test_prediction_and_corrections_are_kept_until_they_are_replaced(session: Session) -> None:
    photograph = session.add('a.png', upload(session))
    with pytest.raises(UnknownError, match='not predicted yet'):
        photograph.labels(0.5)
    probability = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
    photograph.keep(NOW, probability, SETTINGS)
    photograph.keep(BEFORE, 255 - probability, SETTINGS)
    np.testing.assert_array_equal(photograph.probability(), probability)
    np.testing.assert_array_equal(photograph.probability(BEFORE), 255 - probability)
    corrections = np.zeros((30, 40), np.uint8)
    corrections[3, 4], corrections[5, 6] = 1, 2
    photograph.correct(corrections)
    labels = photograph.labels(0.5)
    assert (labels[3, 4], labels[5, 6]) == (1, 0)
    assert np.count_nonzero(labels != (probability > 127)) <= 2
    photograph.keep(NOW, 255 - probability, SETTINGS)
    np.testing.assert_array_equal(photograph.corrections(), corrections)
    photograph.forget(BEFORE)
    with pytest.raises(UnknownError):
        photograph.probability(BEFORE)


def test_removed_photograph_leaves_nothing(session: Session) -> None:
    photograph = session.add('a.png', upload(session))
    session.remove(photograph.number)
    assert (session.photographs, session.bytes) == ([], 0)
    with pytest.raises(UnknownError, match='not there any more'):
        session.photograph(photograph.number)


def test_sessions_know_nothing_of_each_other_and_end() -> None:
    clock, ended = Clock(), []
    sessions = Sessions(Limits(sessions=2, idle_seconds=100, leave_seconds=10, free_bytes=0), ended.append, clock)
    one, other = sessions.open(), sessions.open()
    assert one != other and len(one) >= 32
    session = sessions.get(one)
    photograph = session.add('a.png', upload(session))
    assert sessions.get(other).photographs == []
    with pytest.raises(LimitError, match='2 people are working here'):
        sessions.open()

    clock.now = 90
    sessions.get(one)
    clock.now = 110
    sessions.sweep()
    with pytest.raises(UnknownError, match='has ended'):
        sessions.get(other)
    assert photograph.file.is_file()

    # Loaded again: it goes on.
    sessions.leave(one)
    sessions.get(one)
    clock.now = 150
    sessions.sweep()
    assert photograph.file.is_file()

    sessions.leave(one)
    clock.now = 161
    sessions.sweep()
    assert ended[1:] == [session]
    assert not photograph.file.exists()
    assert list(sessions.root.iterdir()) == []
    sessions.close()
    assert not sessions.root.exists()


def test_what_a_killed_server_left_is_deleted(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, '-c', 'import os; print(os.getpid())'], capture_output=True, text=True)
    dead, alive = (tmp_path / f'crack_plugin-app-{number}-x' for number in (int(process.stdout), os.getpid()))
    for folder in (dead, alive):
        (folder / 'session').mkdir(parents=True)
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [alive.name]
