"""Benchmarks: throughput compared with baselines, growth, the effect of options, and the synthetic dataset."""

from dali_pipes.errors import refuse_hidden_packages

refuse_hidden_packages("model", "train")
