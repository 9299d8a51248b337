"""What runs where, and what it needs. Arithmetic on sizes: no torch."""
