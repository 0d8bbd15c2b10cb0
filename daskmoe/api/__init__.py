"""The verbs, one module each: what a caller asks for becomes a request, its results become a model."""
