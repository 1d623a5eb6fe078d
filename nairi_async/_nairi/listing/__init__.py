"""An agent's conversations: listing them page by page, and keeping up with what changes (api: list for agent)."""
