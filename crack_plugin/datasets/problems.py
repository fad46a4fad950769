"""What is wrong with a dataset: problems, and their grouping by cause.

What training would stop at is an error; what it would accept, but is seldom meant, or makes the scores look better than
they are, is a warning.
"""

import re
import traceback
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from crack_plugin.datasets.polygons import LabelError

CAUSES = ('severity', 'split', 'count', 'files', 'problem, with examples')
"""Names of the columns of :func:`describe_cause`."""

SEEN_IN_PICTURES = ('joined', 'beside')
"""Causes whose problems are judged by a look at the label on its image."""

# What differs between two messages of one cause: what is quoted, and words with a digit.
_VALUE = re.compile(r"""'[^']*'|"[^"]*"|\S*\d\S*""")


class Problem(NamedTuple):
    """Attributes:
    severity: 'error' or 'warning'.
    split: The split it was found in; both of a pair.
    text: File, line, fault and remedy.
    cause: The same for all problems of one kind, in whatever file; '' if this is the only one of its kind.
    file: The image or label file; None for a problem of a whole split.
    line: The line in ``file``; None if the fault is not in a line.
    """

    severity: Literal['error', 'warning']
    split: str
    text: str
    cause: str = ''
    file: str | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """File and line, as messages name them; the split without a file."""
        if self.file is None:
            return self.split
        return self.file if self.line is None else f'{self.file}, line {self.line}'

    @property
    def fault(self) -> str:
        """``text`` without the place."""
        return self.text.replace(self.place, '') if self.file is not None else self.text


def problem_of(error: Exception, split: str, file: str) -> Problem:
    """The problem that an exception raised for a file stands for.

    Two faults have one cause if the same statement found them and reported them in the same words.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f'{file} cannot be read: {error.strerror}. Restore it, or delete it.'
    statement = traceback.extract_tb(error.__traceback__)[-1]
    line = error.line if isinstance(error, LabelError) else None
    problem = Problem('error', split, text, file=file, line=line)
    words = re.sub(r'# (?:# )+', '# ', _VALUE.sub('#', problem.fault))
    return problem._replace(cause=f'{statement.filename}:{statement.lineno}: {words}')


def group_by_cause(problems: Sequence[Problem]) -> list[list[Problem]]:
    """Put problems of one cause together, errors first, and of those the most frequent.

    Args:
        problems: In any order.
    """
    groups: dict[tuple[str, str], list[Problem]] = defaultdict(list)
    for problem in problems:
        groups[problem.severity, problem.cause or problem.text].append(problem)
    return sorted(groups.values(), key=lambda group: (group[0].severity, -len(group)))


def describe_cause(problems: Sequence[Problem], examples: int = 3) -> tuple[str, ...]:
    """All problems of one cause as a row under ``CAUSES``.

    Args:
        problems: A group of :func:`group_by_cause`.
        examples: How many to show, if possible such as differ by more than their place, and of several files.
    """
    by_fault = {problem.fault: problem for problem in reversed(problems)}
    by_file = {problem.file: problem for problem in reversed(problems)}
    differing = [problem for problem in problems if problem is by_fault[problem.fault]]
    elsewhere = [problem for problem in problems if problem is by_file[problem.file]]
    first, *others = list(dict.fromkeys([*differing, *elsewhere, *problems]))[:examples]
    known, texts = {first.fault}, [first.text]
    for other in others:
        texts.append(f'also {other.place if other.fault in known else other.text}')
        known.add(other.fault)
    files = len({problem.file for problem in problems if problem.file is not None})
    splits = dict.fromkeys(problem.split for problem in problems)
    return first.severity, ', '.join(splits), str(len(problems)), str(files or ''), '\n'.join(texts)
