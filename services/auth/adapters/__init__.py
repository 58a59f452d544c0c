"""The API server, as the authority over ServiceAccount tokens."""
