"""The list of an agent's conversations: read it page by page, or read what changed since a checkpoint."""
