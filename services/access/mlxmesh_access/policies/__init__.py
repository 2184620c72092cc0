"""What gateways need to know to decide about calls by themselves."""
