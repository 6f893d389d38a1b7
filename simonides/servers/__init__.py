"""The doors that answer over a wire."""
