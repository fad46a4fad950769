"""Runs a script with the plugin imported first: ``python -m crack_plugin SCRIPT.py [ARGUMENTS]``.

Some of MMSegmentation's tools import ``mmseg.models`` before they read a config, which fails on mmcv-lite unless this
package has been imported.
"""

import runpy
import sys


def main() -> None:
    """Run the script that the command line names, as if Python had been called with it."""
    if len(sys.argv) < 2:
        sys.exit('usage: python -m crack_plugin SCRIPT.py [ARGUMENTS]')
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
