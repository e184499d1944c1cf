"""virtio-fs for virtual machines, its daemon jailed by an external, resident supervisor."""
