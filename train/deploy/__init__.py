"""The trained network in use: predicted heights, exported files and the decision to promote.

In: a checkpoint.  Out: heights, an exported file, a model card, a verdict.
It must not import the training loop.
"""
