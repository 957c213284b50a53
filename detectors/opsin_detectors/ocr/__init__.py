"""Built-in detector that reads text in pictures."""
