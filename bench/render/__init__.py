"""A synthetic dataset in the form of AI Hub 71805: tests and the demo use it.

In: a seed and sizes.  Out: four ZIP archives.  It must not import torch, DALI or the trainer.
"""
