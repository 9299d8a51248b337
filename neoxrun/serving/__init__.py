"""A model that answers requests as they come: the engine's loop, and the way to it from another process."""
