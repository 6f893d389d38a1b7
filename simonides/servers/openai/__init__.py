"""What the proxy knows of the wire format of OpenAI, and of what goes along with it."""
