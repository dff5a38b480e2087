"""Trained encoders to use: loaded, fed, exported."""
