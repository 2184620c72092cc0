"""The engines that there should be: which versions are loaded, and where."""
