"""What the sessions of all services share: one attempt over HTTP, retries, rate limits, credentials, JSON, uploads."""
