"""Encoders: clips in, one feature vector per clip out."""
