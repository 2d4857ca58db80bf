"""The ablation: what each option of the training recipe is worth.

In: a release. Out: a run per recipe and seed, and tables of their results.
"""
