"""A search as a Ray job: what is sent, what is refused, how it is followed."""
