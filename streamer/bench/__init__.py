"""What the daemon costs: raw stages, N cameras at once, how many fit, and the efficiency."""
