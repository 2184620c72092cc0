"""The only public process: limits, deadlines and a byte relay."""
