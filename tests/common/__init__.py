"""What several tests need: media, shard sets, runs."""
