"""Converts models of many libraries and checks it: `python -m tools.dev.library_check`."""
