"""The command lines: flags become requests and configs for the packages that do the work."""
