"""One application per role: vote, result, worker. They never import each other."""
