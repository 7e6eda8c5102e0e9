"""Measures how fast the package is; see README.md in this folder."""
