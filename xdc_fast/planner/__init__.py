"""How fast a run is on this machine, and why; and what it needs at another size."""
