"""The fit of one partition: starts, EM, Newton, search. Pure NumPy and SciPy."""
