"""One-off research that the documents cite; `benchmarks` measures the library itself."""
