"""What may be lost: one file a cache, whose name is the scheme of the URL that opens it."""
