"""What the encoders have learned, measured."""
