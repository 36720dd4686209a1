"""The three roles of a container: one application each. They never import each other."""
