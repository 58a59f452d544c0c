"""`nsm explain POD`: asking (bus, API, the node) → stages (pure) → telling (prints)."""
