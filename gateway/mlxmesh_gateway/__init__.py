"""The only public service: applies limits and deadlines, and forwards calls as bytes."""
