"""The recipe of a run: its configuration, the presets, and the datasets that they select.

In: flags and a release. Out: a `Config`, and the `Datasets` to train and evaluate on.
It must not import runs or the engine.
"""
