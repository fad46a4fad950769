"""What the tools share: arguments, the config they name, and models that were trained."""

import argparse
import os
from pathlib import Path

import pytest
from mmengine.config import Config

from crack_plugin import cli
from crack_plugin.errors import ToolError


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """As of test.py."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    parser = argparse.ArgumentParser('tool')
    cli.add_run_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', type=cli.checkpoint_file)
    return parser


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / 'toy.py'
    path.write_text('x = 1\n')
    return str(path)


def test_checkpoint_may_follow_an_option(config: str, tmp_path: Path, parser: argparse.ArgumentParser) -> None:
    checkpoint = tmp_path / 'best.pth'
    checkpoint.touch()
    args = cli.parse_arguments(parser, [config, '--work-dir', 'w', str(checkpoint)])
    assert args.checkpoint == str(checkpoint)


def test_local_rank_reaches_the_environment(
    config: str, monkeypatch: pytest.MonkeyPatch, parser: argparse.ArgumentParser
) -> None:
    monkeypatch.delenv('LOCAL_RANK')
    cli.parse_arguments(parser, [config, '--local_rank', '3'])
    assert os.environ['LOCAL_RANK'] == '3'


def test_checkpoint_address_is_left_to_mmengine() -> None:
    assert cli.checkpoint_file('https://example.org/best.pth') == 'https://example.org/best.pth'


def test_work_dir_falls_back_to_config_then_to_its_name(config: str, parser: argparse.ArgumentParser) -> None:
    def work_dir(*argv: str) -> str:
        return cli.load_config(parser.parse_args([config, *argv])).work_dir

    assert work_dir() == 'work_dirs/toy'
    assert work_dir('--cfg-options', 'work_dir=from_config') == 'from_config'
    assert work_dir('--work-dir', 'given', '--cfg-options', 'work_dir=from_config') == 'given'


def test_config_of_the_package_is_found_by_its_name(parser: argparse.ArgumentParser) -> None:
    args = parser.parse_args(['sam3_tiny_lora_crack.py'])
    assert Config.fromfile(args.config).model.type == 'SAM3TextLoRA'
    assert cli.load_config(args).work_dir == 'work_dirs/sam3_tiny_lora_crack'


def test_config_that_is_not_python_names_the_line(tmp_path: Path, parser: argparse.ArgumentParser) -> None:
    (tmp_path / 'broken.py').write_text('x = 1\ny = (\n')
    with pytest.raises(ToolError, match=r'broken\.py, or a file it builds on, is not Python: line 2'):
        cli.load_config(parser.parse_args([str(tmp_path / 'broken.py')]))


def test_work_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(ToolError, match=r'the work dir .*file/below cannot be written: Not a directory.*--work-dir'):
        cli.build_runner(Config({'work_dir': str(tmp_path / 'file' / 'below')}))
