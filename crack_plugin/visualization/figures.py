"""Plots of a training: curves over epochs, and how the images' scores are distributed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crack_plugin.visualization.panels import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION

Rows = Sequence[Mapping[str, Any]]
_LINE_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY_BLUE, 'black')
_MARKERS = 'os^D'


def save_curves(path: Path, rows: Rows, axis: str = 'epoch', zero_shot: float | None = None) -> None:
    """Plot loss, IoU and learning rate as PNG.

    Args:
        path: File to write.
        rows: One an epoch, as ``load_history`` gives them; a key that a row lacks leaves a gap.
        axis: Key of the horizontal axis.
        zero_shot: ``crack/IoU`` without training, drawn as a line.
    """
    figure = Figure(figsize=(12, 3.8), dpi=100, layout='constrained')
    loss, iou, rate = figure.subplots(1, 3)
    _curve(loss, rows, axis, 'train_loss', 'train', BLUE, 'o-')
    _curve(loss, rows, axis, 'val_loss', 'validation', VERMILLION, 's--')
    loss.set_title('Loss')
    _curve(iou, rows, axis, 'train_iou', 'train', BLUE, 'o-')
    _curve(iou, rows, axis, 'crack/IoU', 'validation', VERMILLION, 's--')
    if zero_shot is not None:
        iou.axhline(zero_shot, color='black', linestyle=':', label='zero-shot')
    iou.set_title('IoU')
    _curve(rate, rows, axis, 'lr', 'learning rate', GREEN, 'o-')
    rate.set_title('Learning rate')
    for axes in (loss, iou, rate):
        axes.set_xlabel(axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        else:
            axes.text(0.5, 0.5, 'not recorded', ha='center', va='center', transform=axes.transAxes)
    figure.savefig(path)


def save_histograms(path: Path, scores: Rows, zero_shot: Rows | None = None) -> None:
    """Plot the distributions of the images' IoU and Dice as PNG.

    Args:
        path: File to write.
        scores: One an image, with 'IoU' and 'Dice' in [0, 1], as ``CrackMetric.per_image``.
        zero_shot: The same without training, drawn as an outline.
    """
    figure = Figure(figsize=(12, 3.8), dpi=100, layout='constrained')
    bins = np.linspace(0, 1, 21)
    for axes, name in zip(figure.subplots(1, 2), ('IoU', 'Dice'), strict=True):
        values = np.array([row[name] for row in scores])
        axes.hist(values, bins=bins, color=BLUE, edgecolor='white', label='fine-tuned')
        axes.axvline(values.mean(), color=VERMILLION, linestyle='--', label=f'mean {values.mean():.3f}')
        if zero_shot is not None:
            untrained = [row[name] for row in zero_shot]
            axes.hist(untrained, bins=bins, histtype='step', color='black', linewidth=1.5, label='zero-shot')
        axes.set(title=f'{name} of validation images', xlabel=name, ylabel='images', xlim=(0, 1))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    figure.savefig(path)


def save_size_accuracy(path: Path, points: Rows) -> None:
    """Plot the crack IoU of models over their size and their arithmetic as PNG.

    Args:
        path: File to write.
        points: One a model: 'name', 'parameters', 'tflop', 'iou', and 'low' and 'high' of its interval.
    """
    figure = Figure(figsize=(12, 4.2), dpi=100, layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key, label in ((left, 'parameters', 'parameters'), (right, 'tflop', 'TFLOP an image')):
        for index, point in enumerate(points):
            error = [[point['iou'] - point['low']], [point['high'] - point['iou']]]
            marker, color = (
                _MARKERS[index // len(_LINE_COLORS) % len(_MARKERS)],
                _LINE_COLORS[index % len(_LINE_COLORS)],
            )
            axes.errorbar(point[key], point['iou'], yerr=error, fmt=marker, color=color, capsize=3, label=point['name'])
        axes.set(xscale='log', xlabel=label)
        axes.grid(alpha=0.3, which='both')
    left.set_ylabel('crack IoU')
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside right upper')
    figure.savefig(path)


def _curve(axes: Axes, rows: Rows, axis: str, key: str, label: str, color: str, style: str) -> None:
    points = [(row[axis], row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=color, label=label)
