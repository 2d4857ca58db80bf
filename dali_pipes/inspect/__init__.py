"""The content of a release and its faults.

In: a release. Out: an `Inspection`, shown on the console, as JSON or as a page.
Training imports verdict.py, and nothing else does. It must not import torch or DALI.
"""
