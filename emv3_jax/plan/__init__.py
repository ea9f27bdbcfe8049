"""Plans: memory, operations and communication of a config's programs, compiled without the target machine."""
