"""The deep-clustering loop."""
