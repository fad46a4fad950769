"""Scores of predicted masks."""

from crack_plugin.evaluation.crack_metric import CrackMetric

__all__ = ['CrackMetric']
