"""The examples in docstrings of pure functions give what they say."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    'module',
    [
        'crack_plugin.datasets.mask_polygons',
        'crack_plugin.datasets.polygons',
        'crack_plugin.evaluation.geometry',
        'crack_plugin.evaluation.measures',
        'crack_plugin.skeleton',
    ],
)
def test_examples_in_docstrings(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
