"""From what the partitions say to one model. Pure NumPy and SciPy."""
