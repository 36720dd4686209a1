"""What the web roles share: HTTP server, pages, static files, headers, cookies, limits, texts.

It imports neither Redis nor Postgres.
"""
