"""The options of the commands: only what ``--help`` needs, so that it answers at once. No other packages."""
