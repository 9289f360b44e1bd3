"""The sub-commands: what looks at the store or the machine, and trains nothing."""
