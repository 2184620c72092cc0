"""Files of models and adapters that this host fetched from others."""
