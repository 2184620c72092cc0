"""What is decided about servers, tools and calls, without I/O."""
