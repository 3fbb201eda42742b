"""Benchmarks, each a module with a command of its own."""
