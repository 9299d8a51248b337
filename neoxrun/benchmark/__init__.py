"""What a machine gives: cases that are measured, the limits of its hardware, and a report of both."""
