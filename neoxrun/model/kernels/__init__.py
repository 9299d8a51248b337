"""Custom kernels, and the choice among torch's: one module per device."""
