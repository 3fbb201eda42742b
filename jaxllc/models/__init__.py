"""Small models and their training data, for examples, tests and benchmarks."""
