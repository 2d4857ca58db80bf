"""The trained network in use: predicted heights, exported files, and the choice between two networks.

In: a checkpoint. Out: heights, an exported file with its model card, a verdict.
It must not import the training loop.
"""
