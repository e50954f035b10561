"""Reproduce tables of results with one command: train the runs in the order of their dependencies, write a report."""
