"""LoRA adapters in files: what the model service examines and what engines load."""
