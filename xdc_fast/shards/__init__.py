"""Packed sets of tar shards, open for reading; see format.py for what lies where."""
