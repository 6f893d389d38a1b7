"""What stands at the doors: who is let in, and what serves them."""
