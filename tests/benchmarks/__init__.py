"""Benchmarks: each prints its figures as ratios measured in one run; tiny versions run in the suite."""
