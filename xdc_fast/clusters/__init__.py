"""Features in, pseudo-labels out."""
