"""The transport plan and the estimators that are made with it. Pure NumPy and SciPy."""
