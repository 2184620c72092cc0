"""What a generation is: requests, events, and the models that may serve them. Pure."""
