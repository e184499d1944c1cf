"""The installed copy under real libvirt: its own 9.0 of Debian 12, and 11.3 unpacked below build/."""
