"""Run the ``Dockerfile`` without Docker: ``python benchmarks/container.py ROOT [--run ARGUMENT ...]``, as root.

Makes a minimal Debian in ROOT with debootstrap, copies what git tracks where ``COPY`` says, runs the ``RUN`` lines
there with the file's ``ENV``, ``ARG``, ``USER`` and ``WORKDIR``, and at last ``ENTRYPOINT`` with the arguments of
``--run``. Linux alone.

What it does not show: that Docker parses the file as this script does, the contents of the base image
(``debian:bookworm-slim`` and debootstrap's minimal variant differ), layers, volumes, and GPUs.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHELL = """
set -e
mount -t proc proc {root}/proc
mount --rbind /dev {root}/dev
{binds}
exec chroot --userspec={user} {root} /usr/bin/env -i {environment} /bin/sh -c {command}
"""


@dataclass
class Image:
    """What the lines so far have set."""

    environment: dict[str, str] = field(
        default_factory=lambda: {'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    user: str = 'root'
    folder: str = '/'
    entrypoint: list[str] = field(default_factory=list)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments: comments left out, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith('#')]
    for line in re.sub(r'\\\n\s*', '', '\n'.join(lines)).splitlines():
        name, _, rest = line.partition(' ')
        yield name.upper(), rest.strip()


def pairs(text: str) -> dict[str, str]:
    """``NAME=VALUE ...``, quoted as in a shell."""
    return dict(word.split('=', 1) for word in shlex.split(text))


def chroot(root: Path, image: Image, command: str, binds: list[Path]) -> None:
    """Run a shell command in ROOT as the image's user; ends this program if it fails."""
    mounts = []
    for folder in binds:
        inside = root / folder.relative_to('/')
        inside.mkdir(parents=True, exist_ok=True)
        source, target = shlex.quote(str(folder)), shlex.quote(str(inside))
        # Packages of that Debian may not write into folders of this machine.
        mounts.append(f'mount --bind {source} {target}; mount -o remount,ro,bind {target}')
    environment = image.arguments | image.environment
    script = SHELL.format(
        root=shlex.quote(str(root)),
        binds='\n'.join(mounts),
        user=image.user,
        environment=' '.join(shlex.quote(f'{name}={value}') for name, value in environment.items()),
        command=shlex.quote(f'cd {image.folder} && {command}'),
    )
    print(f'[{image.user}] {command}', flush=True)
    # A mount namespace of its own: whatever happens, nothing stays mounted.
    result = subprocess.run(['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script])
    if result.returncode:
        sys.exit(f'failed with exit code {result.returncode}: {command}')


def copy_tracked(target: Path) -> None:
    """What git tracks, as it lies in the working tree; uncommitted new files are left out."""
    target.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(['git', 'ls-files', '-z'], cwd=REPOSITORY, check=True, capture_output=True).stdout
    packed = subprocess.run(
        ['tar', 'c', '--null', '-T', '-'], cwd=REPOSITORY, input=files, check=True, capture_output=True
    )
    subprocess.run(['tar', 'x', '--no-same-owner', '-C', str(target)], input=packed.stdout, check=True)


def build(root: Path, text: str, extra: dict[str, str], binds: list[Path]) -> Image:
    """Carry the instructions out, in order."""
    image = Image()
    for name, rest in instructions(text):
        if name == 'FROM':
            suite = rest.partition(':')[2].removesuffix('-slim')
            print(f'debootstrap {suite}', flush=True)
            subprocess.run(['debootstrap', '--variant=minbase', suite, str(root)], check=True)
            (root / 'etc/resolv.conf').write_bytes(Path('/etc/resolv.conf').read_bytes())
        elif name == 'ARG':
            image.arguments |= pairs(rest) | extra
        elif name == 'ENV':
            image.environment |= pairs(rest)
        elif name == 'RUN':
            chroot(root, image, rest, binds)
        elif name == 'COPY' and rest.startswith('. '):
            copy_tracked(root / rest.removeprefix('. ').lstrip('/'))
        elif name == 'USER':
            image.user = rest
        elif name == 'WORKDIR':
            image.folder = rest
        elif name == 'ENTRYPOINT':
            image.entrypoint = json.loads(rest)
        elif name != 'CMD':
            sys.exit(f'{name} {rest}: this script does not know what that does')
    return image


def main() -> None:
    """Build in the folder of the command line, and run the entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='new folder for the Debian')
    parser.add_argument('--arg', nargs='+', default=[], metavar='NAME=VALUE', help='build arguments, and variables')
    parser.add_argument(
        '--bind', nargs='+', type=Path, default=[], metavar='DIR', help='folders of this machine, to be read'
    )
    parser.add_argument('--run', nargs=argparse.REMAINDER, default=[], help='arguments of the entry point')
    args = parser.parse_args()
    if os.geteuid() != 0:
        parser.error('chroot and debootstrap need root')
    root = args.root.resolve()
    extra = dict(pair.split('=', 1) for pair in args.arg)
    image = build(root, (REPOSITORY / 'Dockerfile').read_text(encoding='utf-8'), extra, args.bind)
    image.arguments = {}
    chroot(root, image, shlex.join([*image.entrypoint, *args.run]), args.bind)


if __name__ == '__main__':
    main()
