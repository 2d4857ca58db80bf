"""Scores of predictions: errors, uncertainty, calibration and pooling.

In: heights and predictions as numpy arrays.  Out: one `Evaluation`.
Pure numpy: it must not import torch, and does not know runs, pages or devices.
"""
