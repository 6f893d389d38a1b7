"""The sinks: one file each, opened by the scheme of a URL."""
