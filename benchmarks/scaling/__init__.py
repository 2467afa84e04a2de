"""What benchmarks/scale.py is made of: a large project without pixels, and what its parts cost."""
