"""Prediction of masks, tables and measurements from photographs and videos; :class:`Predictor` is the Python API."""

from crack_plugin.prediction.found import Prediction
from crack_plugin.prediction.predictor import PredictionError, Predictor

__all__ = ['Prediction', 'PredictionError', 'Predictor']
