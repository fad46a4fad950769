"""Copy the pins of ``constraints.txt`` to ``pyproject.toml``, where ``uv sync`` reads them: ``make pins``."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def with_pins(project: str, constraints: str) -> str:
    """The text of ``pyproject.toml`` with the pins of ``constraints.txt``."""
    pins = [f'    "{line}",\n' for line in constraints.splitlines() if not line.startswith('#')]
    table = f'constraint-dependencies = [\n{"".join(pins)}]\n'
    return re.sub(r'^constraint-dependencies = \[\n.*?^\]\n', lambda _: table, project, flags=re.DOTALL | re.MULTILINE)


if __name__ == '__main__':
    path = ROOT / 'pyproject.toml'
    constraints = (ROOT / 'constraints.txt').read_text(encoding='utf-8')
    path.write_text(with_pins(path.read_text(encoding='utf-8'), constraints), encoding='utf-8')
