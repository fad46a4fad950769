"""Label maps as pictures."""

import numpy as np

from crack_plugin.visualization import panels


def test_difference() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 2, 255]])
    prediction = np.array([[0, 1, 1, 0, 2, 1, 1]])
    found, false_alarm, missed = panels.FOUND, panels.FALSE_ALARM, panels.MISSED
    assert panels.difference(prediction, truth).tolist() == [[0, false_alarm, found, missed, found, missed, 0]]
