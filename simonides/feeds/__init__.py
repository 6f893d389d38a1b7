"""The feeds: one file each, opened by the scheme of a URL."""
