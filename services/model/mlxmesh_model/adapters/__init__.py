"""The LoRA adapters of models."""
