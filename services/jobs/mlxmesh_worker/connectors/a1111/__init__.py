"""Connector of AUTOMATIC1111's Stable Diffusion web UI: images from texts, and from images."""
