"""Memory, work and communication of any config on any machine, compiled without that machine."""
