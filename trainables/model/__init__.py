"""The model itself: a decoder with its attention, a read-out, and the embedding.

Nothing here imports anything of the project outside this folder, because an exported model carries
a copy of it.
"""
