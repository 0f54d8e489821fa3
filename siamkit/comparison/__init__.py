"""Comparison: many runs on one data set, and what can be said about their differences."""
