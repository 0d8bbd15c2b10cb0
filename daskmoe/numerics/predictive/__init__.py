"""What a given mixture says of rows: gates, densities, means, quantiles, draws. Pure NumPy and SciPy."""
