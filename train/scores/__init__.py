"""What predictions are worth: errors, uncertainty, calibration and pooling.

In: heights and predictions as numpy arrays.  Out: scores.
Pure numpy: it must not import torch, and knows no run, no page and no device.
"""
