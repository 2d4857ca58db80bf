"""Scores of predictions: errors, uncertainty, calibration and pooling.

In: heights and predictions as numpy arrays. Out: one `Evaluation`.
Its own files compute with numpy alone: they must not import torch, runs or pages.
"""
