"""How fast the resolver is, beside what people use: `python -m bench.dns [--quick] [SETTING …]`. Loopback only."""
