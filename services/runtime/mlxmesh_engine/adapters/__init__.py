"""LoRA adapters: reads them, and decides which are in the slots of the forward pass."""
