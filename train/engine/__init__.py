"""The training itself: the step, the schedule, the epochs and the state that changes.

In: a `Config` and tables.  Out: a trained checkpoint.
It must not import the report or matplotlib.
"""
