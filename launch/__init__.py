"""How a person starts it: scenarios, the command line, recordings."""
