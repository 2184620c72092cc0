"""Models that see: reads images, and computes text and images with a model of mlx-vlm."""
