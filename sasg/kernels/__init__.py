"""What is compiled: passes over rows on the CPU."""
