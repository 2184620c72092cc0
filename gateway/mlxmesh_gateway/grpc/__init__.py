"""The gRPC edge: public methods as a thin user of the door."""
