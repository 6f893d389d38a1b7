"""Stores of blobs: one file each, named by the scheme of its URL."""
