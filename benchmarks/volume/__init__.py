"""Parts of the volume benchmarks: volumes to judge by, frozen before anything was tuned, and peers."""
