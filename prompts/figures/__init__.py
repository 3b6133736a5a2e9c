"""What the turns of each version came to: counted, read, compared and drawn."""
