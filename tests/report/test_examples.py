"""Which images a report shows."""

from crack_plugin.report.examples import pick_examples


def test_examples_come_from_their_bands() -> None:
    ious = [1.0, 0.93, 0.92, 0.80, 0.79, 0.75, 0.71, 0.58, 0.57, 0.40]
    has_crack = [False] + [True] * 9
    picked = {band.name: indices for band, indices in pick_examples(ious, has_crack).items()}
    assert picked == {'best': [1, 2], 'good': [3, 6], 'challenging': [7, 8]}


def test_examples_nearest_to_their_bands() -> None:
    ious = [0.3, 0.69, 0.9, 0.75, 0.1]
    picked = {band.name: indices for band, indices in pick_examples(ious, [True] * 5).items()}
    assert picked == {'best': [2, 3], 'good': [1, 0], 'challenging': [4]}
