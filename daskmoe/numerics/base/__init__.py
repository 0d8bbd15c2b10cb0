"""What all other rooms stand on: parameters, coordinates, moments, products, buffers, policies."""
