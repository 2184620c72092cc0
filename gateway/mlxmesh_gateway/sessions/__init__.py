"""Sessions of browsers: cookies instead of headers, only for the Connect edge and `/session`."""
