"""Parts of the denoising benchmark: micrographs to judge by, frozen before anything was tuned, and measures."""
