"""What people see on the terminal: messages, progress, standard streams."""
