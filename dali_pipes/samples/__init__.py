"""From bytes to the checked table of samples.

In: the members of a release. Out: a `SampleTable`, one row per polyline, and the list of what was skipped.
It must not import batches/, DALI or torch.
"""
