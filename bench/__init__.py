"""Benchmarks: throughput compared with baselines, growth, what options are worth, and the synthetic dataset."""
