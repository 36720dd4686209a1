"""`voting load`: a crowd of voters over HTTP. Nothing here knows how the app works inside."""
