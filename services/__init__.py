"""The services. They meet in `schemas` and on the bus, never each other."""
