"""Runs a tool of this package without a checkout, or a script: ``python -m crack_plugin TOOL_OR_SCRIPT [ARGUMENTS]``.

TOOL is a name from ``tools/``: ``python -m crack_plugin demo``. The most used have commands of their own
(``crack-train``, ``crack-test``, ``crack-predict``, ``crack-report``, ``crack-check``, ``crack-app``).

SCRIPT.py is run with the plugin imported first: some of MMSegmentation's tools import ``mmseg.models`` before they read
a config, which fails on mmcv-lite unless this package has been imported.
"""

import runpy
import sys
from functools import partial
from pathlib import Path

from crack_plugin.shipped import shipped


def run_tool(name: str) -> None:
    """Run one of the tools as if Python had been called with it, with the process's arguments."""
    runpy.run_path(str(shipped('tools') / f'{name}.py'), run_name='__main__')


train = partial(run_tool, 'train')
test = partial(run_tool, 'test')
predict = partial(run_tool, 'predict')
report = partial(run_tool, 'report')
check = partial(run_tool, 'check_dataset')
app = partial(run_tool, 'app')


def main() -> None:
    """Run the tool or script that the command line names."""
    tools = sorted(path.stem for path in shipped('tools').glob('*.py'))
    if len(sys.argv) < 2:
        sys.exit(f'usage: python -m crack_plugin TOOL_OR_SCRIPT.py [ARGUMENTS]; tools: {", ".join(tools)}')
    del sys.argv[0]
    name = sys.argv[0]
    if name in tools:
        run_tool(name)
    elif Path(name).is_file():
        runpy.run_path(name, run_name='__main__')
    else:
        sys.exit(f'python -m crack_plugin: {name} is neither a file nor one of the tools: {", ".join(tools)}')


if __name__ == '__main__':
    main()
