"""Where trials run: Ray."""
