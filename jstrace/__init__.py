"""s-Trace in JAX."""
