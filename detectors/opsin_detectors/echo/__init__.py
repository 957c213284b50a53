"""Built-in detector without weights, for tests, benches and examples."""
