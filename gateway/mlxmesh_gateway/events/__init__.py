"""Events: retained by this gateway, watched by clients, sent to webhooks."""
