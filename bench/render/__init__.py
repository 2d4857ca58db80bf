"""A synthetic dataset in the format of AI Hub 71805, used by tests, benchmarks and the demo.

In: a seed and counts. Out: four ZIP archives. It must not import torch, DALI or the trainer.
"""
