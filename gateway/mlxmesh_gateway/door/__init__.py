"""The steps of a public call, for every transport: who calls, what is allowed, how long."""
