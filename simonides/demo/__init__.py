"""What `simonides demo` shows: an invented archive, and a short story told with it."""
