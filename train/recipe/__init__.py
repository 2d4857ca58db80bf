"""What a run is: its configuration, its preset and the data that they select.

In: flags and a release.  Out: a `Config`, and the tables to train and evaluate on.
It must not know about the training itself.
"""
