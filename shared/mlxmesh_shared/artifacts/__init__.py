"""Files by their content: a store of them on one host, and their way to other hosts."""
