"""Many stages: what a command or a sweep asks for, each trained once."""
