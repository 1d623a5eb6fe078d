"""Nairi: sessions, conversations and everything that only its API needs."""
