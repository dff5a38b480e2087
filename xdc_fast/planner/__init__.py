"""How fast a run is on this machine, and why."""
