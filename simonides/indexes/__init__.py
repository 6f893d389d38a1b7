"""Vector indexes: one file each; a URL's scheme is a file's name."""
