"""Files of rows: what a file is, and its rows, for ``generate`` and ``score`` alike. No torch."""
