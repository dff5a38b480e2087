"""Shards in, batches of clips on the device out."""
