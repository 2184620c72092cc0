"""Proposes tokens that one pass of the model verifies: the output stays what it is without them."""
