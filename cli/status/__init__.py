"""`nsm status`: survey (asks the bus) → judging (pure) → telling (prints)."""
