"""Control groups: where a share's are, which disks its limits bind on, what is written to them, and their life."""
