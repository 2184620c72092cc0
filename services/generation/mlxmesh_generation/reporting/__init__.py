"""Reports how generations ended to the model service, which keeps their history."""
