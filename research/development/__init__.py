"""Stages of development on small models: the induction bump, and in-context regression. Results and what they mean: `research/development.md`."""
