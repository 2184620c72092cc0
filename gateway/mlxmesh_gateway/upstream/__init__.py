"""The instances behind the gateway: which one a call goes to, retries, and resumed streams."""
