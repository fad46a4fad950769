"""tools/demo.py: five steps and their results on the terminal, everything else in a file."""

import re
from pathlib import Path

import pytest
from conftest import TOOLS, load_script

from crack_plugin.errors import ToolError

TOOL = load_script(TOOLS / 'demo.py')


def test_failing_tool_shows_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / 'demo.log'
    log.write_text('what came before\n' + 'line\n' * 100)
    with pytest.raises(ToolError, match=r'report\.py failed\. All it printed is in .*demo\.log') as caught:
        TOOL.run(log, 'report.py', tmp_path / 'nowhere')
    shown = str(caught.value)
    assert 'nowhere' in shown
    assert 'what came before' not in shown


@pytest.mark.slow
def test_terminal_has_steps_and_results_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ['--data', str(tmp_path / 'data'), '--work-dir', str(tmp_path / 'work')]
    rows = TOOL.main([*places, '--train', '4', '--valid', '2', '--cfg-options', 'train_cfg.max_epochs=2'])
    printed = capsys.readouterr().out
    assert re.findall(r'^\[(\d)/5\]', printed, re.MULTILINE) == list('12345')
    assert len(printed.splitlines()) < 25
    for scores in rows.values():
        assert f'IoU {100 * scores["crack/IoU"]:.1f} %' in printed
    assert re.search(r'2 epochs, training loss 0\.\d+ to 0\.\d+ \(\d+ s\)', printed)
    log = (tmp_path / 'work' / 'demo.log').read_text(encoding='utf-8')
    # MMEngine's pages of configs and hooks
    assert 'Hooks will be executed in the following order' in log
    assert (tmp_path / 'work' / 'report' / 'report.html').is_file()
