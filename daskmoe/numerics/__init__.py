"""The mathematics: NumPy and SciPy alone, without data structures of other packages, options or logging.

SciPy's subpackages are used as ``scipy.linalg.cho_factor``: they load at the first use, and `import daskmoe`
stays quick.
"""
