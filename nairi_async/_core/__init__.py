"""Reaching a service over HTTP: one seam to aiohttp, retries, limits, secrets (design sections 2 and 6)."""
