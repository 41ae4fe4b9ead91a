"""The machine and its processes: devices, ranks, available cores and memory, signals."""
