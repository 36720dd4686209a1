"""One application per role: vote, result, worker, admin. They never import each other."""
