"""Raw media in, tar shards out."""
