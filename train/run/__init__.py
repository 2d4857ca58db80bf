"""Around a training: the run folder, the checkpoint writer, signals, ranks, the console and tracking.

In: the state of a training. Out: files, progress lines, and values shared between ranks.
It must not import the engine.
"""
