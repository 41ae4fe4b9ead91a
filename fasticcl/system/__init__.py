"""The machine and its processes: devices, ranks, cores, memory limits and signals."""
