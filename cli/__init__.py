"""The `nsm` command: what a person can ask of a cluster or a lab."""
