"""Data without worker processes, from configs that were written for workers."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from crack_plugin.dataloaders import without_idle_options

OVERRIDES = {f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')}


def test_num_workers_0_is_all_that_a_run_without_workers_needs(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = Config.fromfile(tiny_config)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=4, persistent_workers=True, prefetch_factor=2, timeout=60)
    cfg.merge_from_dict(OVERRIDES | {'train_cfg.max_epochs': 1, 'experiment_name': 'no_workers'})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 'crack/IoU' in runner.test()
    output = capsys.readouterr()
    said = [line for line in (output.out + output.err).splitlines() if 'num_workers=0: ' in line]
    assert len(said) == 3
    assert all('persistent_workers=True, prefetch_factor=2, timeout=60 left out' in line for line in said)


@pytest.mark.parametrize('workers', [{}, {'num_workers': 0}])
def test_without_workers_only_their_options_are_left_out(workers: dict) -> None:
    given = {'batch_size': 2, 'persistent_workers': True, 'pin_memory': True, **workers}
    assert without_idle_options(given) == {'batch_size': 2, 'pin_memory': True, **workers}
    assert given['persistent_workers'] is True


def test_with_workers_nothing_changes(log: list[str]) -> None:
    given = {'num_workers': 2, 'persistent_workers': True, 'prefetch_factor': 4}
    assert without_idle_options(given) == given and not log
