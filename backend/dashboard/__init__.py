"""The web pages that the backend serves."""
