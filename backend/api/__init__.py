"""HTTP handlers, thin; who may call what is said beside each."""
