"""The steps of every public call, whatever its protocol: who calls, rules, deadline, forwarding."""
