"""Kernels of our own, and the choice among those of torch: one module a device."""
