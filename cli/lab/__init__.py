"""`nsm lab …`: one module per verb or family of verbs; each is imported only when it is asked for."""
