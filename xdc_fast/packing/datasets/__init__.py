"""The official lists of public data sets."""
