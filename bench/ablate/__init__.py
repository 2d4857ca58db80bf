"""The ablation: the effect of each option of the training recipe.

In: a release. Out: a run per recipe and seed, and tables of their results.
"""
