#!/bin/sh
# Starts the app; in a codespace, with the addresses at which GitHub shows its ports. Links and the
# QR code use them.
if [ -n "$CODESPACE_NAME" ]; then
  export VOTE_URL="https://$CODESPACE_NAME-8080.$GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN"
  export RESULT_URL="https://$CODESPACE_NAME-8081.$GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN"
fi
exec voting up "$@"
