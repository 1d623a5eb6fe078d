"""Discovering messages by polling: what is new, when to look, and who reads (design sections 5 and 7)."""
