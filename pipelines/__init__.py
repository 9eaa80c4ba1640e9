"""Feature definitions of this project: each module here can be given to `featurestore apply` and `run`."""
