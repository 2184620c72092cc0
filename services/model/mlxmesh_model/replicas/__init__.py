"""Replicas of loaded versions: where they are placed, and the loop that reconciles them."""
