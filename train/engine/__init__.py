"""The training step, the schedule, the loop and its state, and the use of trained networks.

In: a `Config` and a release. Out: a run folder with checkpoints, and predictions.
It must not import the report or matplotlib.
"""
