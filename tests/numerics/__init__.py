"""Tests of the numerics: one module each, oracles before examples."""
