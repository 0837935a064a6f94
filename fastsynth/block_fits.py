"""Fit joint models of several columns to the rows of a table."""
