"""The per-packet path: Cython and C headers, without the GIL; it knows nothing above it."""
