"""Stages of development, followed on small models: one experiment a file, each with its command, its rules, its figure."""
