"""Makes models/demo and models/golden from nothing. One script, one duty; see models/README.md."""
