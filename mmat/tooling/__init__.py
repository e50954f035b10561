"""Implementation of the command lines in ``tools/``: analysis, visualization, conversion and publishing."""
