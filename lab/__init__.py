"""A cluster on one machine, made of network namespaces, for development, demos and tests."""
