"""Shared by all benchmarks: checks of flags, timing, cold starts, baselines and the output.

In: workloads. Out: rates and tables. It must not import a benchmark.
"""
