"""Built-in cascade: faces, and the emotion each one shows."""
