"""Limits of the width, built in and of one's own, and widths that the pixels cannot tell from a limit."""

from pathlib import Path

import pytest

from crack_plugin.inspection.severity import PROFILES, SeverityError, find_profile, rate


@pytest.mark.parametrize(
    ('name', 'limits'),
    [
        ('bre251', [0.1, 1, 5, 15, 25]),
        ('ec2', [0.2, 0.3, 0.4]),
        ('aci224r', [0.10, 0.15, 0.18, 0.30, 0.41]),
    ],
)
def test_built_in_limits(name: str, limits: list[float]) -> None:
    profile = find_profile(name)
    assert [level.up_to for level in profile.levels[:-1]] == limits
    assert profile.source
    for lower, limit, upper in zip(profile.levels, limits, profile.levels[1:], strict=False):
        assert rate(profile, limit, 0).severity == lower.name
        assert rate(profile, limit + 0.001, 0).severity == upper.name
    assert rate(profile, 1000, 1).severity == profile.levels[-1].name


def test_a_limit_within_the_uncertainty_is_said() -> None:
    # 0.25 mm at 0.05 mm a pixel, and at 0.5 mm a pixel
    fine = rate(PROFILES['ec2'], 0.25, 0.04)
    assert fine.is_certain
    assert fine.severity == fine.level == 'over 0.2 mm'
    coarse = rate(PROFILES['ec2'], 0.25, 0.5)
    assert not coarse.is_certain
    assert coarse.level == fine.level
    assert coarse.severity == 'uncertain: within 0.2 mm to over 0.4 mm'


def test_profile_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text('measure: mean_width\nlevels:\n- {name: fine, up_to: 0.2}\n- {name: wide}\n')
    profile = find_profile(str(path))
    assert profile.measure == 'mean_width'
    assert [rate(profile, width, 0).severity for width in (0.2, 0.3)] == ['fine', 'wide']


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('levels: [', 'cannot be read as YAML'),
        ('- 1', 'has `levels`'),
        ('levels: []', 'levels is empty'),
        ('levels: [{name: a, up_to: 1}]', 'level 1 is .* the last has no limit'),
        ('levels: [{name: a}, {name: b}]', 'level 1 is'),
        ('levels: [{name: a, up_to: x}, {name: b}]', "level 1: up_to is 'x'"),
        ('levels: [{name: a, up_to: 2}, {name: b, up_to: 1}, {name: c}]', 'level 2: up_to 1.0 does not exceed'),
        ('levels: [{name: a, up_to: 2}, {name: a}]', 'one name'),
        ('measure: area\nlevels: [{name: a}]', "measure is 'area'"),
        ('limits: 3\nlevels: [{name: a}]', 'limits is unknown'),
    ],
)
def test_faults_of_a_profile_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(SeverityError, match=message) as error:
        find_profile(str(path))
    assert str(path) in str(error.value)


def test_unknown_profile() -> None:
    with pytest.raises(SeverityError, match='bre251, ec2, aci224r'):
        find_profile('bre252')
