"""What all benchmarks share: timing, cold-start measurements and the baselines."""
