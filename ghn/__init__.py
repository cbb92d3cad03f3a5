"""Graph hypernetworks for PyTorch: networks that write the weights of other networks."""
