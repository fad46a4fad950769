"""The table of epochs against the model without training."""

from crack_plugin.report import epoch_table


def scores(iou: float) -> dict[str, float]:
    return {'crack/IoU': iou, 'crack/Dice': 0.7, 'crack/Precision': 0.8, 'crack/Recall': 0.9}


def test_epoch_table_is_the_technical_report_s() -> None:
    """Figures of its baseline and of its epochs 1 and 6."""
    rows = [{'epoch': 1, **scores(0.5572)}, {'epoch': 2, 'train_loss': 1.0}, {'epoch': 6, **scores(0.6399)}]
    best = epoch_table.best_row(rows, 'crack/IoU')
    assert best == 2
    header, lines, strong = epoch_table.epoch_table(rows, 'epoch', best, scores(0.3855))
    assert header == ['Epoch', 'mIoU', 'Dice', 'Precision', 'Recall', 'mIoU Improvement']
    assert lines == [
        ['Baseline (Zero-shot)', '38.55%', '70.00%', '80.00%', '90.00%', '-'],
        ['1', '55.72%', '70.00%', '80.00%', '90.00%', '+17.17 pp'],
        ['2', '-', '-', '-', '-', '-'],
        ['6 (Best)', '63.99%', '70.00%', '80.00%', '90.00%', '+25.44 pp'],
    ]
    assert strong == 3

    _, lines, strong = epoch_table.epoch_table(rows, 'epoch', best, None)
    assert (lines[0][0], lines[2][-1], strong) == ('1', '-', 2)


def test_best_row_follows_the_rule() -> None:
    rows = [{'val_loss': 0.5}, {'val_loss': 0.2}, {'val_loss': None}, {'val_loss': 0.2}]
    assert epoch_table.best_row(rows, 'val_loss', 'less') == 1
    assert epoch_table.best_row(rows, 'val_loss') == 0
    assert epoch_table.best_row(rows, 'crack/IoU') is None
