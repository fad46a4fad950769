"""Fast tests and demo on every stack: ``python benchmarks/matrix.py [STACK ...]``, or ``make matrix STACK=...``.

Each stack gets an environment of its own, ``.venv-STACK``, and a row in ``docs/stacks.md``, in the place of its former
one. Stacks: ``tested`` (constraints.txt), ``oldest`` (the lower bounds of setup.py), ``newest`` (whatever pip takes)
and ``onedl`` (the forks, with constraints.txt). Each downloads PyTorch and takes about as long as ``make install``,
``make test`` and ``make demo`` together. Tests that passed, and the demo, are not run again by the next call with the
same code and the same versions (``matrix.json`` in the environment): so an interrupted call goes on where it was.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs' / 'stacks.md'
# What is tried: all but the page that rows are written to.
TRIED: tuple[str, ...] = ('--', '.', ':!docs/stacks.md')
EXTRAS = {'tested': 'lite,dev', 'oldest': 'lite,dev', 'newest': 'lite,dev', 'onedl': 'onedl,dev'}
SHOWN = 'import importlib.metadata as m; print(*(m.version(name) for name in {names}))'
Command = list[str | Path]


def constraints(stack: str) -> list[str]:
    """The lines of the constraints file that pip gets."""
    if stack == 'newest':
        return []
    if stack == 'oldest':
        bounds = re.findall(r"'([a-z0-9-]+)>=([0-9.]+)", (ROOT / 'setup.py').read_text(encoding='utf-8'))
        return sorted({f'{name}=={version}' for name, version in bounds})
    return (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()


def run(command: Command) -> str:
    """Run a command that has to succeed, in the checkout; what it prints goes to the terminal as well."""
    print('$', *command, flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(result.stdout)
    if result.returncode:
        sys.exit(f'{" ".join(map(str, command))} failed, see above')
    return result.stdout


def install(stack: str, folder: Path, python: str) -> Path:
    """Make the environment, or bring it up to date; its interpreter."""
    run([python, '-m', 'venv', folder])
    pinned = folder / 'constraints.txt'
    pinned.write_text('\n'.join(constraints(stack)), encoding='utf-8')
    interpreter = folder / 'bin' / 'python'
    pip: Command = [interpreter, '-m', 'pip', '-qq', '--disable-pip-version-check', 'install']
    # Without pins, pip leaves what is there and fits.
    limits: Command = ['-c', pinned] if constraints(stack) else ['--upgrade', '--upgrade-strategy', 'eager']
    run([*pip, *limits, 'setuptools>=70,<81', 'wheel'])
    # Isolated builds: onedl-mmcv, which is there as sources alone, would compile its operators where it sees torch.
    run([*pip, *limits, '-e', f'.[{EXTRAS[stack]}]'])
    return interpreter


def state(interpreter: Path) -> str:
    """Digest of the checkout, changes that are not committed included, and of every installed version."""
    index = subprocess.check_output(['git', 'ls-files', '--stage', *TRIED], cwd=ROOT)
    changes = subprocess.check_output(['git', 'diff', '--no-ext-diff', '--binary', *TRIED], cwd=ROOT)
    freeze: Command = [interpreter, '-m', 'pip', '--disable-pip-version-check', 'freeze', '--exclude-editable']
    return hashlib.sha256(index + changes + subprocess.check_output(freeze)).hexdigest()


def passed_before(folder: Path, now: str) -> dict[str, str]:
    """Results of the steps that passed in an earlier call, in the same state."""
    file = folder / 'matrix.json'
    kept = json.loads(file.read_text(encoding='utf-8')) if file.exists() else {}
    return kept['passed'] if kept.get('state') == now else {}


def once(folder: Path, now: str, step: str, measure: Callable[[], tuple[str, bool]] | None) -> tuple[str, bool]:
    """The result of a step, and whether it passed: from an earlier call if it passed then, in the same state.

    Args:
        folder: The environment, which keeps the results.
        now: See :func:`state`.
        step: Its name.
        measure: None if it is left out.
    """
    if former := passed_before(folder, now).get(step):
        print(f'{step}: {former}, from an earlier call ({folder / "matrix.json"})')
        return former, True
    if measure is None:
        return 'not run', True
    result, passed = measure()
    if passed:
        # Read again: another call may have run the other step meanwhile.
        kept = {'state': now, 'passed': {**passed_before(folder, now), step: result}}
        (folder / 'matrix.json').write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding='utf-8')
    return result, passed


def count_tests(interpreter: Path, folder: Path, files: list[str]) -> tuple[str, bool]:
    """Run the fast tests; pytest's counts, and whether all passed."""
    log = folder / 'tests.log'
    command: Command = [interpreter, '-m', 'pytest', '-q', '-m', 'not slow and not browser']
    command += files or ['-n', 'logical', '--maxprocesses', '4', '--dist', 'loadfile']
    print('$', *command, '>', log, flush=True)
    # One thread in each process, or they would get in each other's way.
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    with log.open('w', encoding='utf-8') as file:
        returncode = subprocess.run(command, cwd=ROOT, env=environment, stdout=file).returncode
    printed = log.read_text(encoding='utf-8', errors='replace')
    print(printed[-5000:])
    # The last line, but for what a library prints at exit.
    last = [line for line in printed.splitlines() if re.search(r' in [\d.]+s\b', line)][-1:]
    counts = ', '.join(re.findall(r'\d+ (?:failed|passed|skipped|errors?)', ''.join(last))) or 'none ran'
    return counts + (f' (of {", ".join(files)} alone)' if files else ''), returncode == 0


def demo_scores(interpreter: Path, folder: Path) -> tuple[str, bool]:
    """IoU before and after the demo's training, and whether it came to its end."""
    data, work_dir = folder / 'demo-data', folder / 'demo'
    # An earlier call's, which the code may draw otherwise by now.
    for former in filter(Path.exists, (data, work_dir)):
        shutil.rmtree(former)
    command: Command = [interpreter, ROOT / 'tools' / 'demo.py', '--data', data, '--work-dir', work_dir]
    print('$', *command, flush=True)
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(result.stdout)
    scores = re.findall(r'^\| (?:zero-shot|with LoRA) \| ([\d.]+ %)', result.stdout, re.MULTILINE)
    return ('failed', False) if result.returncode else (' → '.join(scores), True)


def versions(interpreter: Path, stack: str) -> list[str]:
    """Of Python, torch, transformers, numpy, mmengine and mmsegmentation."""
    fork = 'onedl-' if stack == 'onedl' else ''
    names = ('torch', 'transformers', 'numpy', f'{fork}mmengine', f'{fork}mmsegmentation')
    python = run([interpreter, '-c', 'import platform; print(platform.python_version())'])
    return [python.strip(), *run([interpreter, '-c', SHOWN.format(names=names)]).split()]


def write_row(page: str, cells: list[str]) -> str:
    """The page with this row, in the place of the one that begins alike, or at the end of the table."""
    row = f'| {" | ".join(cells)} |'
    lines = page.rstrip('\n').split('\n')
    kept = [line for line in lines if not line.startswith(f'| {cells[0]} |')]
    end = max(index for index, line in enumerate(kept) if line.startswith('|')) + 1
    return '\n'.join([*kept[:end], row, *kept[end:]]) + '\n'


def main() -> None:
    """Try the stacks that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('stacks', nargs='*', metavar='STACK', help=f'of {", ".join(EXTRAS)} (default: all)')
    parser.add_argument('--python', default=sys.executable, help='interpreter of new environments')
    parser.add_argument('--environment', type=Path, help='in the place of .venv-STACK, for one stack')
    parser.add_argument('--tests', nargs='+', default=[], metavar='FILE', help='these tests alone; the row says so')
    parser.add_argument('--no-tests', action='store_true', help='without the tests')
    parser.add_argument('--no-demo', action='store_true', help='without the demo')
    parser.add_argument('--no-row', action='store_true', help='leave docs/stacks.md as it is')
    args = parser.parse_args()
    stacks = args.stacks or list(EXTRAS)
    unknown = set(stacks) - set(EXTRAS)
    if unknown or (args.environment and len(stacks) > 1):
        parser.error(f'name stacks of {", ".join(EXTRAS)}, and one alone with --environment')
    all_passed = []
    for stack in stacks:
        folder = (args.environment or ROOT / f'.venv-{stack}').resolve()
        interpreter = install(stack, folder, args.python)
        now = state(interpreter)
        test = None if args.no_tests else partial(count_tests, interpreter, folder, args.tests)
        tests, tests_passed = once(folder, now, ' '.join(['tests', *args.tests]), test)
        show = None if args.no_demo else partial(demo_scores, interpreter, folder)
        demo, demo_passed = once(folder, now, 'demo', show)
        all_passed += [tests_passed, demo_passed]
        cells = [stack, *versions(interpreter, stack), tests, demo, datetime.date.today().isoformat()]
        print(f'{stack}: {tests}; demo: {demo}')
        if not args.no_row:
            PAGE.write_text(write_row(PAGE.read_text(encoding='utf-8'), cells), encoding='utf-8')
    sys.exit(0 if all(all_passed) else 1)


if __name__ == '__main__':
    main()
