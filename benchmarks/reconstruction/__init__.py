"""What `benchmarks/reconstruct.py` is made of."""
