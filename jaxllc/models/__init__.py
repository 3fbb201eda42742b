"""Small models and the data that they are trained on, for examples, tests and benchmarks."""
