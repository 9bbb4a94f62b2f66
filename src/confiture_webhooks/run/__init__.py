"""One run of migrations: what happened goes in, deliveries go out, and the run ends in time."""
