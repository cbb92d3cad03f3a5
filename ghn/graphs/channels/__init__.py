"""Which channels of a model are the same channel: labels carried through its forward pass."""
