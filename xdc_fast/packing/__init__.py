"""Media files in, tar shards out."""
