"""The Connect protocol: every public method as JSON over HTTP, streams also as SSE.

Source: connectrpc.com/docs/protocol, and the JSON mapping of Protocol Buffers.
"""
