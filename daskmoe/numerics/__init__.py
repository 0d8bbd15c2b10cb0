"""The mathematics, in NumPy and SciPy alone: no Dask, no labels, no printing."""
